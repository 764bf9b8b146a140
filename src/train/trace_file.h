// The file of --trace: a timeline of chosen steps of all ranks.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace lockstep {

class StepClock;
class Trace;
class World;

class TraceFile {
 public:
  /// With an empty path nothing is ever recorded.
  TraceFile(World& world, std::string path, int64_t first_step, int64_t last_step);
  ~TraceFile();
  TraceFile(const TraceFile&) = delete;
  TraceFile& operator=(const TraceFile&) = delete;

  /// Collective at the first step: all clocks start there.
  void begin_step(int64_t step, StepClock& clock);
  /// Collective at the last step: rank 0 writes the file. Throws Error (io).
  void end_step(int64_t step, StepClock& clock);
  /// Collective, after the run's last step: writes what there is when the last step to trace did not come. Gives what a
  /// person should know about it, or nothing.
  std::string finish(StepClock& clock);
  /// Whether steps are being recorded; the same on all ranks.
  bool under_way() const { return trace_ != nullptr; }

 private:
  World& world_;
  std::string path_;
  int64_t first_;
  int64_t last_;
  std::shared_ptr<Trace> trace_;
  bool begun_ = false;

  void write(StepClock& clock);
};

}  // namespace lockstep
