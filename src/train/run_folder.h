// The folder of a run: what it is called, whether it is taken, what it holds.
#pragma once

#include <ctime>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/trainer.h"
#include "store/run_owner.h"
#include "train/run_files.h"

namespace lockstep {

struct ResumePoint;

/// Makes the folder runs/RECIPE-YYYYMMDD-HHMMSS, in local time; if there is one, RECIPE-YYYYMMDD-HHMMSS-2 and so on, so
/// that jobs of one second have a folder each. Throws Error (io).
std::string default_run_folder(const std::string& recipe, std::time_t now);

/// Whether both paths lead to one folder that exists.
bool same_folder(const std::string& one, const std::string& other);

struct TakenFolder {
  RunFiles files;
  std::optional<RunOwner> owner = {};
  bool same_run = false;                ///< goes on with the run that was there
  std::vector<std::string> notes = {};  ///< what a person should know of files
};

/// Makes the folder, or takes the one that is there, and puts config.toml into it; its list of files is still to be
/// written, when the log has its own. `from` in this folder: the run goes on and is made what it was then. Else a run
/// that is there is removed if the request says `overwrite`, or if it is one of `--resume auto` that has no weights
/// yet, and otherwise refused. Removes the run's own files, no others. Throws Error: usage (before anything changes)
/// for a run that is there, later checkpoints, or a file in the way that is not the run's; io.
TakenFolder take_run_folder(const std::string& folder, const TrainRequest& request, const ResumePoint* from, int ranks);

/// The newest weights of a run: final.pth, else its newest checkpoint that verifies, else the MODEL_EPOCH.pth of the
/// highest epoch. Throws Error (missing) without any.
std::string last_weights(const std::string& folder);

}  // namespace lockstep
