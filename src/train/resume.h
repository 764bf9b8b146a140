// Where a run goes on.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "lockstep/weights.h"
#include "train/run_state.h"

namespace lockstep {

class World;

struct ResumePoint {
  std::string checkpoint;  ///< its path
  std::string run;         ///< the run folder it lies in; empty when it lies elsewhere
  RunState state;
  NamedTensors tensors;            ///< rank 0's alone has some; named as in the file
  std::vector<std::string> notes;  ///< newer checkpoints that were passed over, and why
};

/// Collective; rank 0 reads. `resume` is what --resume takes: "auto" for the newest good checkpoint of the run `out`,
/// nothing when that has none; a run folder; or a checkpoint. Empty: nothing. Throws AgreedError: usage (auto without a
/// run), missing, damaged, io; launch if ranks name other things.
std::optional<ResumePoint> find_resume_point(World& world, const std::string& resume, const std::string& out);

/// Collective: rank 0's tensors whose names begin with `prefix`, without it, on every rank and in host memory.
NamedTensors share_tensors(World& world, const NamedTensors& tensors, const std::string& prefix);

/// Local: throws Error (resume_refused) naming every setting that may not change and does, and the images if they are
/// others.
void check_resume(const ResumePoint& from, const Settings& settings, const DataMarks& data);

/// The folder of a run's checkpoints.
std::string checkpoints_of(const std::string& run);

}  // namespace lockstep
