// Writes checkpoints beside the training.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "lockstep/error.h"
#include "lockstep/weights.h"

namespace lockstep {

/// A thread that writes checkpoints into a folder, in the order of docs/checkpoints.md: the files named in `sync` are
/// made durable, then the checkpoint, then `latest`, and only then older ones go. What cannot be written is told by
/// outcomes(), and whatever was there stays.
///
///     CheckpointWriter writer({.folder = run + "/checkpoints", .keep = 3});
///     writer.submit({.step = 100, .tensors = copies, .state = json});    // returns at once
///     for (const auto& outcome : writer.outcomes()) …
///
/// One thread submits.
class CheckpointWriter {
 public:
  struct Options {
    std::string folder;
    int64_t keep = 3;
    /// Called in the thread before each file takes its place; what it throws stops the write. May be empty.
    std::function<void()> guard = {};
    /// Called in the thread when half of a checkpoint's file is written, and when it has its place but `latest` does
    /// not name it yet. May be empty.
    std::function<void()> half_written = {};
    std::function<void()> before_latest = {};
  };

  struct Job {
    int64_t step = 0;
    NamedTensors tensors;                   ///< on the host, and nobody else's
    std::vector<std::string> digests = {};  ///< as checkpoint_pieces takes them
    std::string state;
    std::vector<std::string> sync = {};
    std::set<int64_t> keep_besides = {};  ///< steps
  };

  struct Outcome {
    int64_t step = 0;
    std::string path;
    int64_t bytes = 0;
    double seconds = 0;
    NamedTensors tensors = {};        ///< the job's, given back
    std::optional<Error> error = {};  ///< why there is no such file, or why what followed failed
    bool skipped = false;             ///< a newer one came before this one's turn
  };

  explicit CheckpointWriter(Options options);
  /// Writes what was submitted.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  /// Never waits: while one is being written another may wait for its turn, and a newer one takes the place of that.
  void submit(Job job);

  /// Returns when nothing is left to be written.
  void flush();

  /// What was done since the last call, oldest first.
  std::vector<Outcome> outcomes();

 private:
  void loop();
  Outcome write(const Job& job);

  Options options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Job> waiting_;
  bool writing_ = false;
  bool stop_ = false;
  std::vector<Outcome> outcomes_;
  std::thread thread_;
};

}  // namespace lockstep
