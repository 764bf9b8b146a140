// A whole training run.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "lockstep/evaluator.h"
#include "lockstep/settings.h"

namespace lockstep {

class World;

struct TrainRequest {
  Settings settings;
  std::string recipe = "recipe";  ///< its name, for the banner and the default folder
  std::string out;                ///< the run folder; empty: runs/RECIPE-YYYYMMDD-HHMMSS
  bool overwrite = false;         ///< replace a run that `out` holds
  bool quiet = false;             ///< nothing on the console but warnings and errors
  std::string trace;              ///< a file for a timeline of some steps in Chrome's trace format; empty: none
  int64_t trace_first = 11;       ///< the first and the last of these steps
  int64_t trace_last = 20;
  /// Takes the way of a run on a GPU, whatever the world's device is: the data set lies there, and losses are read only
  /// when they are logged. For tests where there is no GPU; losses and weights keep their bits.
  bool as_on_a_gpu = false;
};

struct TrainResult {
  std::string out;  ///< the run folder (on rank 0)
  int64_t steps = 0;
  std::optional<Evaluation> last;  ///< the last evaluation, if any was asked for
};

/// Collective: trains on World::device as the settings say and leaves the run folder on rank 0: config.toml,
/// metrics.jsonl, TensorBoard events, the weights of each epoch (MODEL_EPOCH.pth) and the last ones (final.pth). Wrong
/// settings, data or folders end in the same AgreedError on every rank, before the first step and with nothing written
/// or removed; an Error that only one rank sees (a full disk) is thrown there, and the caller ends the job by
/// World::abort.
TrainResult train(World& world, const TrainRequest& request);

}  // namespace lockstep
