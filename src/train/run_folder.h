// The folder of a run: what it is called, whether it is taken, what it holds.
#pragma once

#include <string>

namespace lockstep {

/// runs/RECIPE-YYYYMMDD-HHMMSS, in local time.
std::string default_run_folder(const std::string& recipe);

/// Makes the folder and puts config.toml into it. A run that is there already is removed with `overwrite` (the files
/// that runs write, no others), else refused: Error (usage). Throws Error (io) when the folder cannot be made or
/// written.
void prepare_run_folder(const std::string& folder, bool overwrite, const std::string& config_toml);

/// The newest weights of a run: final.pth, else the MODEL_EPOCH.pth of the highest epoch. Throws Error (missing)
/// without any.
std::string last_weights(const std::string& folder);

}  // namespace lockstep
