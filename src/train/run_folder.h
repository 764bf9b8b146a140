// The folder of a run: what it is called, whether it is taken, what it holds.
#pragma once

#include <cstdint>
#include <string>

namespace lockstep {

/// runs/RECIPE-YYYYMMDD-HHMMSS, in local time.
std::string default_run_folder(const std::string& recipe);

/// Whether both paths lead to one folder that exists.
bool same_folder(const std::string& one, const std::string& other);

/// Makes the folder and puts config.toml into it. A run that is there already is removed with `overwrite` (the files
/// that runs write, no others), else refused: Error (usage). Throws Error (io) when the folder cannot be made or
/// written.
void prepare_run_folder(const std::string& folder, bool overwrite, const std::string& config_toml);

/// For `--resume auto` where there is no checkpoint: true when what lies in the folder is at most the beginning of a
/// run that was ended before its first checkpoint, so that nothing is lost when the run begins again.
bool holds_no_weights(const std::string& folder);

/// Makes the folder of a run that goes on after `step` what it was then: checkpoints that came later and do not verify
/// are renamed to NAME.damaged, final.pth goes, and config.toml is written anew. Good checkpoints of later steps are
/// removed with `overwrite`, else refused: Error (usage). Throws Error (io).
void rewind_run_folder(const std::string& folder, int64_t step, bool overwrite, const std::string& config_toml);

/// The newest weights of a run: final.pth, else its newest checkpoint that verifies, else the MODEL_EPOCH.pth of the
/// highest epoch. Throws Error (missing) without any.
std::string last_weights(const std::string& folder);

}  // namespace lockstep
