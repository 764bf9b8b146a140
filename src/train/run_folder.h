// The folder of a run: what it is called, whether it is taken, what it holds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

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

/// Paths of a run's checkpoints of later steps than the one it goes on from.
struct LaterCheckpoints {
  std::vector<std::string> good;
  std::vector<std::string> damaged;
};

/// Changes nothing. Throws Error (usage) when there are good ones, unless `overwrite` says that they may go.
LaterCheckpoints later_checkpoints(const std::string& folder, int64_t step, bool overwrite);

/// Makes the folder of a run that goes on what it was then: good checkpoints of later steps go, damaged ones are
/// renamed to NAME.damaged, final.pth goes, and config.toml is written anew. Throws Error (io).
void rewind_run_folder(const std::string& folder, const LaterCheckpoints& later, const std::string& config_toml);

/// The newest weights of a run: final.pth, else its newest checkpoint that verifies, else the MODEL_EPOCH.pth of the
/// highest epoch. Throws Error (missing) without any.
std::string last_weights(const std::string& folder);

}  // namespace lockstep
