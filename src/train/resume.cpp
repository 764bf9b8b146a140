#include "train/resume.h"

#include <ATen/ops/empty.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "ddp/agreement.h"
#include "lockstep/error.h"
#include "lockstep/trainer.h"
#include "lockstep/world.h"
#include "store/checkpoint_folder.h"
#include "store/files.h"
#include "store/foreign_file.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct Read {
  std::string checkpoint;
  std::string run;
  Checkpoint content;
  std::vector<std::string> notes;
};

std::optional<Read> newest_of(const std::string& run) {
  std::optional<Found> found = newest_good(checkpoints_of(run));
  if (!found) return std::nullopt;
  return Read{found->path, run, std::move(found->checkpoint), std::move(found->passed_over)};
}

Read read_named(const std::string& path) {
  if (std::error_code error; fs::is_directory(path, error)) {
    if (auto found = newest_of(path)) return std::move(*found);
    throw Error(ExitCode::missing, fmt::format("{} holds no checkpoint", checkpoints_of(path)),
                "give another run, or leave --resume out to begin anew");
  }
  Read read;
  read.checkpoint = path;
  const fs::path folder = fs::path(path).parent_path();
  if (folder.filename() == "checkpoints") {
    read.run = folder.parent_path().empty() ? "." : folder.parent_path().string();
  }
  const std::string bytes = read_file(path);
  try {
    read.content = read_checkpoint(bytes);
  } catch (const Malformed& problem) {
    if (const std::string kind = kind_of_weights(bytes); !kind.empty()) {
      std::error_code error;
      const std::string run = folder.empty() ? "." : folder.string();
      throw Error(ExitCode::usage,
                  fmt::format("{} is {} and no checkpoint: a run cannot go on without its step and optimizer state",
                              path, kind),
                  fs::is_directory(checkpoints_of(run), error)
                      ? fmt::format("`--resume '{}'` goes on from that run's newest checkpoint", run)
                      : fmt::format("--resume takes a run folder or a file of its checkpoints/; `lockstep evaluate "
                                    "'{}'` tests these weights",
                                    path));
    }
    if (const auto foreign = foreign_file(path, bytes)) {
      throw Error(ExitCode::damaged, fmt::format("{} is no checkpoint: {}", path, foreign->what), foreign->hint);
    }
    throw Error(ExitCode::damaged, fmt::format("{} is not a good checkpoint: {}", path, problem.what()),
                "--resume with the run's folder takes its newest checkpoint that verifies");
  }
  return read;
}

std::optional<Read> read_on_rank_0(const std::string& resume, const std::string& out) {
  if (resume != "auto") return read_named(resume);
  if (out.empty()) {
    throw Error(ExitCode::usage, "--resume auto does not know which run to go on with", "name it: --out RUN");
  }
  return newest_of(out);
}

}  // namespace

std::string checkpoints_of(const std::string& run) { return run + "/checkpoints"; }

std::optional<ResumePoint> find_resume_point(World& world, const std::string& resume, const std::string& out) {
  agree(world, "what to go on with", {resume.empty() ? "no --resume" : "--resume " + resume});
  if (resume.empty()) return std::nullopt;
  ResumePoint point;
  Json mine;
  world.together([&] {
    if (world.rank() != 0) return;
    std::optional<Read> read = read_on_rank_0(resume, out);
    if (!read) return;
    try {
      point.state = RunState::from_json(read->content.state);
    } catch (const Malformed& problem) {
      throw Error(ExitCode::damaged, fmt::format("{}: {}", read->checkpoint, problem.what()),
                  "it was written by another version of lockstep, or changed");
    }
    point.tensors = std::move(read->content.tensors);
    mine = {
        {"checkpoint", read->checkpoint}, {"run", read->run}, {"state", read->content.state}, {"notes", read->notes}};
  });
  const auto replace = Json::error_handler_t::replace;
  const std::string text = world.all_gather(mine.is_null() ? "" : mine.dump(-1, ' ', false, replace))[0];
  if (text.empty()) return std::nullopt;
  const Json all = Json::parse(text);
  all.at("checkpoint").get_to(point.checkpoint);
  all.at("run").get_to(point.run);
  all.at("notes").get_to(point.notes);
  point.state = RunState::from_json(all.at("state").get<std::string>());
  return point;
}

void check_resume(const ResumePoint& from, const Settings& settings, const DataMarks& data) {
  const std::vector<std::string> refused = refused_changes(from.state, settings, data);
  if (refused.empty()) return;
  throw Error(ExitCode::resume_refused,
              fmt::format("{} is of a run with other settings: {}", from.checkpoint, fmt::join(refused, "; ")),
              "give the settings of that run (leave out --recipe and --set to take them), or begin anew with another "
              "--out");
}

std::optional<Settings> settings_to_resume(World& world, const std::string& resume, const std::string& out) {
  const auto from = find_resume_point(world, resume, out);
  if (!from) return std::nullopt;
  Settings settings;
  for (const auto& [name, value] : from->state.settings) {
    if (knows_setting(name)) apply_setting(settings, fmt::format("{}={}", name, value));
  }
  return settings;
}

NamedTensors share_tensors(World& world, const NamedTensors& tensors, const std::string& prefix) {
  NamedTensors mine;
  Json list = Json::array();
  for (const auto& [name, tensor] : tensors) {
    if (world.rank() != 0 || !name.starts_with(prefix)) continue;
    mine.emplace_back(name.substr(prefix.size()), tensor);
    list.push_back({{"name", mine.back().first},
                    {"type", static_cast<int>(tensor.scalar_type())},
                    {"shape", std::vector<int64_t>(tensor.sizes().begin(), tensor.sizes().end())}});
  }
  list = Json::parse(world.all_gather(list.dump())[0]);
  NamedTensors shared;
  for (size_t i = 0; i < list.size(); ++i) {
    at::Tensor tensor = world.rank() == 0 ? mine[i].second.contiguous()
                                          : at::empty(list[i].at("shape").get<std::vector<int64_t>>(),
                                                      static_cast<at::ScalarType>(list[i].at("type").get<int>()));
    world.broadcast(tensor.data_ptr(), tensor.nbytes());
    shared.emplace_back(list[i].at("name").get<std::string>(), std::move(tensor));
  }
  return shared;
}

}  // namespace lockstep
