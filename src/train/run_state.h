// Where a run stands: what a checkpoint holds beside tensors.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/settings.h"
#include "train/run_log.h"

namespace lockstep {

struct BestTest {
  double accuracy = 0;
  int64_t epoch = 0;
  int64_t step = 0;
};

/// The lines of a run's JSON text are named in docs/checkpoints.md.
struct RunState {
  int64_t step = 0;        ///< done so far
  int64_t epoch = 0;       ///< under way, or about to begin
  int64_t epoch_step = 0;  ///< done in it
  double seconds = 0;      ///< of training so far, in all its starts
  int world_size = 1;
  int threads = 1;
  std::string data;       ///< what tells this training set from others (DataMarks)
  std::string test_data;  ///< likewise the test set; empty in checkpoints that did not say
  std::optional<BestTest> best;
  LogPositions logs;
  std::vector<std::pair<std::string, std::string>> settings;  ///< as setting_values

  std::string to_json() const;
  /// Throws Malformed naming what is missing or of another kind. Unknown fields are left alone.
  static RunState from_json(const std::string& text);
};

class Cifar10;

/// What tells data from other data: the number of images and a digest of every byte; the folder does not count.
struct DataMarks {
  std::string train;
  std::string test;
  std::string train_sample;  ///< as older checkpoints have it: the digest is of some 64 images
};

/// Local: reads what no digest is known of yet.
DataMarks data_marks(const Cifar10& train, const Cifar10& test);

/// What a resumed run may not change: "train.seed: 0 in the checkpoint, 1 now", one line a setting. Those that do not
/// touch what is computed in a step, and those of where the run ends, may change.
std::vector<std::string> refused_changes(const RunState& state, const Settings& now, const DataMarks& data);

/// Other changes worth a word, such as another number of ranks.
std::vector<std::string> noted_changes(const RunState& state, const Settings& now, int world_size, int threads);

}  // namespace lockstep
