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
  std::string out;         ///< the run folder; empty: runs/RECIPE-YYYYMMDD-HHMMSS, with -2 and so on if it is taken
  bool overwrite = false;  ///< replace a run that `out` holds: the files that its files.txt names
  /// Where the run goes on: empty (it begins), "auto" (from the newest good checkpoint of `out`, or anew when there is
  /// none), a run folder, or a checkpoint. Then `out` defaults to that run.
  std::string resume;
  /// SIGTERM, SIGINT and SIGUSR1 on any rank make all save and stop at one step; a second signal ends the process.
  bool stop_on_signals = false;
  bool quiet = false;        ///< nothing on the console but warnings and errors
  std::string trace;         ///< a file for a timeline of some steps in Chrome's trace format; empty: none
  int64_t trace_first = 11;  ///< the first and the last of these steps
  int64_t trace_last = 20;
  /// Takes the way of a run on a GPU, whatever the world's device is: the data set lies there, and losses are read only
  /// when they are logged. For tests where there is no GPU; losses and weights keep their bits.
  bool as_on_a_gpu = false;
};

struct TrainResult {
  /// `interrupted` by a person at the terminal, `stopped` by any other request; there is a checkpoint of it.
  enum class End { done, stopped, interrupted };

  std::string out;    ///< the run folder (on rank 0)
  int64_t steps = 0;  ///< done, by earlier starts of the run too
  End end = End::done;
  std::optional<Evaluation> last;  ///< the last evaluation, if any was asked for
};

/// Collective: the settings of the run that `resume` and `out` (as in TrainRequest) say, if there is one to go on with.
/// Throws as train() does.
std::optional<Settings> settings_to_resume(World& world, const std::string& resume, const std::string& out);

/// Collective: trains on World::device as the settings say and leaves the run folder on rank 0: config.toml,
/// metrics.jsonl, TensorBoard events, checkpoints, the weights of each epoch (MODEL_EPOCH.pth) and the last ones
/// (final.pth). A run that goes on ends with the bits of one that was never interrupted, at the same number of ranks
/// and threads. Settings that would change them are refused: AgreedError (resume_refused). Ranks that were
/// given other settings or data than rank 0 are refused: AgreedError (launch). Wrong settings, data or
/// folders end in the same AgreedError on every rank, before the first step and with nothing written or removed; an
/// Error that only one rank sees (a full disk) is thrown there, and the caller ends the job by World::abort.
TrainResult train(World& world, const TrainRequest& request);

}  // namespace lockstep
