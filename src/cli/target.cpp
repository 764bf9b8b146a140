#include "cli/target.h"

#include <fmt/format.h>

#include <filesystem>

#include "lockstep/error.h"
#include "store/files.h"
#include "train/run_folder.h"

namespace lockstep {

Target find_target(const std::string& run_or_file) {
  namespace fs = std::filesystem;
  std::error_code error;
  Target target;
  if (fs::is_directory(run_or_file, error)) {
    target.run = run_or_file;
    target.weights = last_weights(run_or_file);
  } else if (fs::exists(run_or_file, error)) {
    target.weights = run_or_file;
    const fs::path folder = fs::path(run_or_file).parent_path();
    target.run = folder.empty() ? "." : folder.string();
  } else {
    if (error) throw file_error("read", run_or_file, error.value());
    throw Error(ExitCode::missing, fmt::format("no run folder or file {}", run_or_file),
                "give a run folder or a file of weights");
  }
  const std::string config = target.run + "/config.toml";
  if (fs::exists(config, error)) {
    target.settings = load_recipe(config);
  } else {
    target.run.clear();
  }
  return target;
}

}  // namespace lockstep
