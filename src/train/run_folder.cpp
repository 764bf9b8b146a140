#include "train/run_folder.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <ctime>
#include <exception>
#include <filesystem>
#include <system_error>
#include <vector>

#include "lockstep/error.h"
#include "store/checkpoint_folder.h"
#include "store/files.h"
#include "store/zip_reader.h"
#include "train/resume.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;

// The epoch of MODEL_EPOCH.pth, -1 for any other name.
int64_t epoch_of(const fs::path& path) {
  const std::string stem = path.stem().string();
  const size_t bar = stem.rfind('_');
  if (path.extension() != ".pth" || bar == std::string::npos) return -1;
  int64_t epoch = -1;
  const auto [end, error] = std::from_chars(stem.data() + bar + 1, stem.data() + stem.size(), epoch);
  return error == std::errc() && end == stem.data() + stem.size() ? epoch : -1;
}

bool is_of_a_run(const fs::path& path) {
  const std::string name = path.filename().string();
  return name == "config.toml" || name == "metrics.jsonl" || name == "final.pth" || name == "owner" ||
         (name == "checkpoints" && fs::is_directory(path)) ||
         (name.starts_with("flight-rank-") && name.ends_with(".json")) || name.starts_with("events.out.tfevents.") ||
         epoch_of(path) >= 0;
}

std::vector<fs::path> files_of_run(const std::string& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (is_of_a_run(entry.path())) files.push_back(entry.path());
  }
  return files;
}

}  // namespace

std::string default_run_folder(const std::string& recipe) {
  const std::time_t now = std::time(nullptr);
  std::tm local = {};
  localtime_r(&now, &local);
  return fmt::format("runs/{}-{:%Y%m%d-%H%M%S}", fs::path(recipe).stem().string(), local);
}

bool same_folder(const std::string& one, const std::string& other) {
  std::error_code error;
  return fs::equivalent(one, other, error);
}

void prepare_run_folder(const std::string& folder, bool overwrite, const std::string& config_toml) {
  make_folder(folder);
  const std::vector<fs::path> old = files_of_run(folder);
  if (!old.empty() && !overwrite) {
    throw Error(ExitCode::usage, fmt::format("{} already holds a run", folder),
                "choose another --out, or give --overwrite to replace that run");
  }
  for (const fs::path& path : old) {
    std::error_code error;
    fs::remove_all(path, error);
    if (error) throw file_error("remove", path.string(), error.value());
  }
  write_durably(folder + "/config.toml", config_toml);
}

bool holds_no_weights(const std::string& folder) {
  const std::vector<fs::path> files = files_of_run(folder);
  return std::none_of(files.begin(), files.end(), [](const fs::path& path) { return path.extension() == ".pth"; });
}

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

void rewind_run_folder(const std::string& folder, const LaterCheckpoints& later, const std::string& config_toml) {
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
  remove_leftovers(checkpoints_of(folder));
  fs::remove(folder + "/final.pth", error);
  must(error, folder + "/final.pth");
  write_durably(folder + "/config.toml", config_toml);
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
  fs::path best;
  for (const fs::path& path : files_of_run(folder)) {
    if (epoch_of(path) >= 0 && (best.empty() || epoch_of(path) > epoch_of(best))) best = path;
  }
  if (best.empty() && none_good) std::rethrow_exception(none_good);
  if (best.empty()) {
    throw Error(ExitCode::missing, fmt::format("{} holds no weights", folder),
                "give a run folder or a file of weights");
  }
  return best.string();
}

}  // namespace lockstep
