#include "train/run_folder.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <charconv>
#include <ctime>
#include <filesystem>
#include <system_error>
#include <vector>

#include "lockstep/error.h"
#include "store/files.h"

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
  return name == "config.toml" || name == "metrics.jsonl" || name == "final.pth" ||
         name.starts_with("events.out.tfevents.") || epoch_of(path) >= 0;
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

void prepare_run_folder(const std::string& folder, bool overwrite, const std::string& config_toml) {
  make_folder(folder);
  const std::vector<fs::path> old = files_of_run(folder);
  if (!old.empty() && !overwrite) {
    throw Error(ExitCode::usage, fmt::format("{} already holds a run", folder),
                "choose another --out, or give --overwrite to replace that run");
  }
  for (const fs::path& path : old) {
    std::error_code error;
    fs::remove(path, error);
    if (error)
      throw Error(ExitCode::io, fmt::format("{} cannot be removed: {}", path.string(), error.message()),
                  "choose another --out");
  }
  write_durably(folder + "/config.toml", config_toml);
}

std::string last_weights(const std::string& folder) {
  std::string last = folder + "/final.pth";
  if (std::error_code error; fs::exists(last, error)) return last;
  fs::path best;
  for (const fs::path& path : files_of_run(folder)) {
    if (epoch_of(path) >= 0 && (best.empty() || epoch_of(path) > epoch_of(best))) best = path;
  }
  if (best.empty()) {
    throw Error(ExitCode::missing, fmt::format("{} holds no weights", folder), "give a run folder or a .pth file");
  }
  return best.string();
}

}  // namespace lockstep
