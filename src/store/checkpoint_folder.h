// The folder of a run's checkpoints: their names, which to take, which to delete (docs/checkpoints.md).
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "store/checkpoint.h"

namespace lockstep {

/// "step-0000782.safetensors"; a step of more than seven digits has more.
std::string checkpoint_name(int64_t step);

/// The step of a file that checkpoint_name named.
std::optional<int64_t> step_of(std::string_view name);

/// The names of the checkpoints in the folder, newest step first; none when there is no folder. Throws Error (io).
std::vector<std::string> checkpoint_files(const std::string& folder);

struct Found {
  std::string path;
  Checkpoint checkpoint;
  std::vector<std::string> passed_over;  ///< "NAME: REASON" for each newer file that was not taken
};

/// The newest checkpoint by step that verifies, whatever `latest` says: it is for people, and a crash may leave it
/// behind. Nothing when there is no checkpoint. Throws Error: damaged when there are some and none verifies, io.
std::optional<Found> newest_good(const std::string& folder);

/// Makes `latest` name the checkpoint of this step, durably. Throws Error (io).
void name_latest(const std::string& folder, int64_t step);

/// Deletes all checkpoints but the newest `keep` and those of the steps in `also_keep`. Call it when the newest is
/// durable. Throws Error (io) when it has tried all and one could not be deleted.
void prune(const std::string& folder, int64_t keep, const std::set<int64_t>& also_keep);

/// Removes the temporary files that a killed writer left; nobody else may be writing in the folder. Throws Error (io).
void remove_leftovers(const std::string& folder);

}  // namespace lockstep
