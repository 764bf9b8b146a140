#include "train/run_folder.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <exception>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "lockstep/error.h"
#include "store/checkpoint_folder.h"
#include "store/files.h"
#include "store/zip_reader.h"
#include "train/fault.h"
#include "train/resume.h"
#include "train/run_log.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;

// Paths of a run's checkpoints of later steps than the one it goes on from.
struct LaterCheckpoints {
  std::vector<std::string> good;
  std::vector<std::string> damaged;
};

// Changes nothing. Throws Error (usage) if there are good ones, unless `overwrite` says that they may go.
LaterCheckpoints later_checkpoints(const std::string& folder, int64_t step, bool overwrite) {
  const std::string checkpoints = checkpoints_of(folder);
  const auto verifies = [](const std::string& path) {
    try {
      read_checkpoint(read_file(path));
      return true;
    } catch (const Malformed&) {
      return false;
    } catch (const Error&) {  // cannot be read
      return false;
    }
  };
  LaterCheckpoints later;
  for (const std::string& name : checkpoint_files(checkpoints)) {
    if (step_of(name).value_or(0) <= step) continue;
    const std::string path = checkpoints + "/" + name;
    (verifies(path) ? later.good : later.damaged).push_back(path);
  }
  if (!later.good.empty() && !overwrite) {
    throw Error(ExitCode::usage, fmt::format("{} goes on to {}", folder, later.good.front()),
                "--resume with the folder goes on from there; --overwrite drops what came after the one you named; "
                "--out puts the run elsewhere");
  }
  return later;
}

// True when what lies in the folder is at most the beginning of a run that ended before its first checkpoint (of which
// there is none), so that nothing is lost when the run begins again. Without a list any weights may be the run's.
bool holds_no_weights(const std::string& folder, const RunFiles& files) {
  const auto weights = [&](const std::string& name) {
    std::error_code error;
    return name.ends_with(".pth") && fs::exists(folder + "/" + name, error);
  };
  const std::vector<std::string> others = files.has_list() ? std::vector<std::string>() : files.others();
  return std::none_of(files.names().begin(), files.names().end(), weights) &&
         std::none_of(others.begin(), others.end(), weights);
}

// What the owner of until now has added to the list since it was read here.
void add_late_names(const std::string& folder, RunFiles& files) {
  const RunFiles now(folder);
  if (now.has_list()) files.add({now.names().begin(), now.names().end()});
}

// Goes on in the run's own folder, and makes it what it was at the checkpoint: good checkpoints of later steps go,
// damaged ones are put aside.
void go_on(const ResumePoint& from, const std::string& folder, bool overwrite, const std::string& config,
           TakenFolder& taken) {
  const LaterCheckpoints later = later_checkpoints(folder, from.state.step, overwrite);
  RunFiles& files = taken.files;
  for (const auto& [name, bytes] : from.state.logs.events) files.add({name});
  std::vector<std::string> unknown;
  if (!files.has_list()) {
    for (const std::string& name : files.others()) {
      if (name.starts_with("events.out.tfevents.")) unknown.push_back(name);
    }
    files.write();  // it holds what only the old owner's token tells, which goes now
  }
  taken.owner.emplace(folder, restart_count());  // before anything changes: who wrote here until now must stop
  add_late_names(folder, files);
  const auto must = [](const std::error_code& error, const std::string& path) {
    if (error) throw file_error("remove or rename", path, error.value());
  };
  std::error_code error;
  for (const std::string& path : later.good) {
    fs::remove(path, error);
    must(error, path);
  }
  for (const std::string& path : later.damaged) {
    fs::rename(path, path + ".damaged", error);
    must(error, path);
  }
  files.remove_leftovers();
  fs::remove(folder + "/final.pth", error);
  must(error, folder + "/final.pth");
  write_durably(folder + "/config.toml", config);
  taken.notes = cut_log(folder, from.state.logs, files);
  if (!unknown.empty()) {
    taken.notes.push_back(
        fmt::format("{}: left as it is, because nothing tells whether this run wrote it; if it did, TensorBoard shows "
                    "some steps twice",
                    fmt::join(unknown, ", ")));
  }
}

}  // namespace

std::string default_run_folder(const std::string& recipe, std::time_t now) {
  std::tm local = {};
  localtime_r(&now, &local);
  make_folder("runs");
  const std::string name = fmt::format("runs/{}-{:%Y%m%d-%H%M%S}", fs::path(recipe).stem().string(), local);
  for (int number = 1;; ++number) {
    const std::string folder = number == 1 ? name : fmt::format("{}-{}", name, number);
    if (::mkdir(folder.c_str(), 0777) == 0) return folder;
    if (errno != EEXIST) throw file_error("make the folder", folder, errno);
  }
}

bool same_folder(const std::string& one, const std::string& other) {
  std::error_code error;
  return fs::equivalent(one, other, error);
}

TakenFolder take_run_folder(const std::string& folder, const TrainRequest& request, const ResumePoint* from,
                            int ranks) {
  const std::string config = to_toml(request.settings);
  make_folder(folder);
  RunFiles old(folder);
  TakenFolder taken{.files = old};
  if (from != nullptr && !from->run.empty() && same_folder(from->run, folder)) {
    taken.same_run = true;
    taken.files.add_those_of(request.settings, ranks);
    go_on(*from, folder, request.overwrite, config, taken);
    return taken;
  }
  const bool nothing_lost = request.resume == "auto" && holds_no_weights(folder, old);
  if (old.any() && !request.overwrite && !nothing_lost) {
    throw Error(ExitCode::usage, fmt::format("{} already holds a run", folder),
                "choose another --out, or give --overwrite to replace that run");
  }
  taken.files.add_those_of(request.settings, ranks);
  taken.owner.emplace(folder, restart_count());
  add_late_names(folder, old);
  old.remove_all({"owner"});
  for (const std::string& name : old.names()) {
    if (epoch_of(name) >= 0 || name.starts_with("events.out.tfevents.")) taken.files.drop(name);
  }
  write_durably(folder + "/config.toml", config);
  if (const std::vector<std::string> others = taken.files.others(); request.overwrite && !others.empty()) {
    constexpr size_t kMost = 8;
    taken.notes.push_back(fmt::format(
        "{}: left as they are, because no run's list names them: {}{}", folder,
        fmt::join(others.begin(), others.begin() + static_cast<std::ptrdiff_t>(std::min(kMost, others.size())), ", "),
        others.size() > kMost ? fmt::format(" and {} more", others.size() - kMost) : ""));
  }
  return taken;
}

std::string last_weights(const std::string& folder) {
  std::string last = folder + "/final.pth";
  if (std::error_code error; fs::exists(last, error)) return last;
  std::exception_ptr none_good;
  try {
    if (const auto found = newest_good(checkpoints_of(folder))) return found->path;
  } catch (const Error&) {
    none_good = std::current_exception();
  }
  const RunFiles files(folder);
  std::string best;  // where there is no run, any file of that name will do
  for (const std::string& name :
       files.any() ? std::vector(files.names().begin(), files.names().end()) : files.others()) {
    if (epoch_of(name) > epoch_of(best) && fs::exists(folder + "/" + name)) best = name;
  }
  if (best.empty() && none_good) std::rethrow_exception(none_good);
  if (best.empty()) {
    throw Error(ExitCode::missing, fmt::format("{} holds no weights", folder),
                "give a run folder or a file of weights");
  }
  return folder + "/" + best;
}

}  // namespace lockstep
