// Where the time of a step goes, on this rank and over all ranks.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace lockstep {

class RecordedWork;
class Trace;
class World;

/// Smallest, middle and largest of one figure of all ranks, and the rank with the largest.
struct Spread {
  double least = 0;
  double median = 0;  ///< of an even number of ranks: the mean of the middle two
  double most = 0;
  int worst_rank = 0;
};
Spread spread(const std::vector<double>& values);

/// Milliseconds a step, over all ranks; memory in GiB.
struct StepFigures {
  Spread compute;
  Spread data_wait;   ///< preparing batches
  Spread comm_wait;   ///< waiting in collectives, for data on the way or for slower ranks
  Spread gpu_memory;  ///< the most that LibTorch has taken of each rank's GPU so far; 0 on the CPU
};

/// Splits the time of steps into phases. Communication that goes on beside the computing costs nothing here; only
/// waiting for it counts. On a GPU the phases are those of its stream, between events on it, and nothing waits for them
/// but gather().
class StepClock {
 public:
  explicit StepClock(World& world);
  ~StepClock();

  enum Phase { data, forward, backward, waiting, optimizer, log, phases };

  /// The phase under way ends and this one begins; step() says which step it is in.
  void enter(Phase phase);
  void step_begins(int64_t step) {
    step_ = step;
    enter(data);
  }
  /// The step is over; what follows until the next belongs to none.
  void step_ends();
  /// All gradients of this rank are there: from here to the next phase a GPU waits for other ranks. (In host memory
  /// those who wait are timed themselves.)
  void gradients_ready();

  /// The phase under way is this work, with a mark where gradients_ready() would be and the next where the waiting is
  /// over. How long it takes is known for the last replay only; gather() takes that for all of its interval.
  void replays(const RecordedWork& work) {
    replayed_ = &work;
    ++replays_;
  }

  /// While set, phases also become events of the trace.
  void trace_to(Trace* trace) { trace_ = trace; }

  /// Collective: the figures of the steps since the last call.
  StepFigures gather();

  /// Local: seconds in a phase since the last gather, waiting for communication included.
  double seconds(Phase phase) const { return seconds_[phase]; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Events;

  World& world_;
  Trace* trace_ = nullptr;
  bool running_ = false;
  const RecordedWork* replayed_ = nullptr;
  int64_t replays_ = 0;
  Phase phase_ = data;
  Clock::time_point since_;
  double waited_before_ = 0;
  std::array<double, phases> seconds_ = {};
  double comm_s_ = 0;
  int64_t steps_ = 0;
  int64_t step_ = 0;                // of the run, for those who ask what this rank does
  std::unique_ptr<Events> events_;  // on a GPU
};

}  // namespace lockstep
