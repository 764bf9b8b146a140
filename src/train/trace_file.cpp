#include "train/trace_file.h"

#include <fmt/format.h>

#include "lockstep/world.h"
#include "log/trace.h"
#include "store/files.h"
#include "train/step_clock.h"
#include "world/observe.h"

namespace lockstep {

TraceFile::TraceFile(World& world, std::string path, int64_t first_step, int64_t last_step)
    : world_(world), path_(std::move(path)), first_(first_step), last_(last_step) {}

TraceFile::~TraceFile() {
  if (trace_) observe_communication(world_, nullptr);
}

void TraceFile::begin_step(int64_t step, StepClock& clock) {
  if (path_.empty() || step != first_) return;
  begun_ = true;
  world_.barrier();  // ranks leave it within about the time of a message: their clocks' common zero
  trace_ = std::make_shared<Trace>(world_.rank(), world_.host(), Trace::Clock::now());
  clock.trace_to(trace_.get());
  observe_communication(world_,
                        [trace = trace_](const std::string& name, int64_t bytes, Trace::Clock::time_point begin,
                                         Trace::Clock::time_point end) { trace->beside(name, bytes, begin, end); });
}

void TraceFile::end_step(int64_t step, StepClock& clock) {
  if (trace_ && step == last_) write(clock);
}

std::string TraceFile::finish(StepClock& clock) {
  if (trace_) write(clock);
  if (path_.empty() || begun_) return "";
  return fmt::format("no trace: the run ended before step {}, the first of --trace-steps", first_);
}

void TraceFile::write(StepClock& clock) {
  clock.trace_to(nullptr);
  observe_communication(world_, nullptr);
  const auto events = world_.all_gather(trace_->events());
  trace_.reset();
  if (world_.rank() == 0) write_durably(path_, Trace::file(events));
}

}  // namespace lockstep
