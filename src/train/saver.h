// What a run saves: checkpoints beside the training, weights for people.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "lockstep/net.h"
#include "lockstep/settings.h"
#include "lockstep/weights.h"
#include "train/run_state.h"

namespace lockstep {

class CheckpointWriter;
class Fault;
class Gradients;
class Optimizer;
class RunFiles;
class World;

/// Parameters and what the optimizer keeps for them: what all replicas must hold alike.
NamedTensors replica_state(const Net& net, const Optimizer& optimizer);

/// Rank 0 writes. A file that cannot be written is told and training goes on, except where it says otherwise; the next
/// one is tried again.
class Saver {
 public:
  struct Parts {
    World& world;
    Gradients& gradients;
    const Net& net;
    const Optimizer& optimizer;
    const Settings& settings;
    const Fault& fault;
    std::string out;
    RunLog* log = nullptr;             ///< on rank 0 only
    RunFiles* files = nullptr;         ///< likewise
    std::function<void()> guard = {};  ///< called before anything is written; what it throws passes on
  };
  explicit Saver(const Parts& parts);
  /// Writes what was handed to it.
  ~Saver();

  /// Collective: looks whether all replicas are alike and finite, and hands a copy to the thread that writes it.
  void checkpoint(RunState state);

  /// Local: tells what that thread has done. Throws Error (launch) when another process has taken the run.
  void report();

  /// Collective: as report(), when all is written.
  void finish();

  /// Collective: OUT/NAME.pth, looked at like a checkpoint. With `must`, rank 0 throws Error (io) when it cannot be
  /// written.
  enum class Failure { told, thrown };
  void weights(const std::string& name, int64_t step, Failure failure);

  /// Rank 0: the newest file that a run can go on from or be used, for messages; empty: none yet.
  const std::string& last_good() const { return last_good_; }
  int64_t last_step() const { return last_step_; }        ///< of the last checkpoint handed over; -1: none
  int64_t durable_step() const { return durable_step_; }  ///< rank 0: of the newest one written; -1: none

 private:
  void sync();
  void audit(const NamedTensors& replica, int64_t step);

  Parts my_;
  std::unique_ptr<CheckpointWriter> writer_;
  NamedTensors memory_;  // of a copy that is written, for the next
  std::string last_good_;
  int64_t last_step_ = -1;
  int64_t durable_step_ = -1;
};

}  // namespace lockstep
