#include "train/step_clock.h"

#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <numeric>

#include "lockstep/world.h"
#include "log/trace.h"
#include "train/device_path.h"
#include "world/recorded_work.h"

namespace lockstep {
namespace {

constexpr const char* kNames[] = {"data", "forward", "backward", "waiting", "optimizer", "log"};
// Without a log nobody gathers; the newest steps' events are enough.
constexpr size_t kMostMarks = 1 << 16;

}  // namespace

// Marks on the GPU's stream, where a phase begins; the last one of a step begins none.
struct StepClock::Events {
  struct Mark {
    c10::Event event;
    Phase begins;
  };

  explicit Events(c10::Device gpu) : device(gpu), guard(gpu.type()) {}

  void mark(Phase begins) {
    if (marks.size() >= kMostMarks) marks.clear();
    marks.push_back({c10::Event(device.type(), c10::EventFlag::BACKEND_DEFAULT), begins});
    marks.back().event.record(guard.getStream(device));
  }

  // Waits until the last mark is reached.
  void add_to(std::array<double, phases>& seconds) {
    if (!marks.empty()) marks.back().event.synchronize();
    for (size_t i = 0; i + 1 < marks.size(); ++i) {
      if (marks[i].begins == phases) continue;
      seconds[marks[i].begins] += 1e-3 * marks[i].event.elapsedTime(marks[i + 1].event);
    }
    marks.clear();
  }

  c10::Device device;
  c10::impl::VirtualGuardImpl guard;
  std::vector<Mark> marks;
};

StepClock::StepClock(World& world) : world_(world) {
  if (world.device().is_cuda()) events_ = std::make_unique<Events>(world.device());
}

StepClock::~StepClock() = default;

Spread spread(const std::vector<double>& values) {
  std::vector<double> sorted = values;
  std::sort(sorted.begin(), sorted.end());
  const size_t middle = sorted.size() / 2;
  return {.least = sorted.front(),
          .median = sorted.size() % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2,
          .most = sorted.back(),
          .worst_rank = static_cast<int>(std::max_element(values.begin(), values.end()) - values.begin())};
}

void StepClock::enter(Phase phase) {
  if (running_ && phase == phase_) return;
  const auto now = Clock::now();
  world_.doing(kNames[phase], step_);
  if (running_) {
    if (!events_) seconds_[phase_] += std::chrono::duration<double>(now - since_).count();
    if (trace_ != nullptr) trace_->span(kNames[phase_], since_, now);
  } else {
    waited_before_ = world_.comm_wait_s();
  }
  running_ = true;
  phase_ = phase;
  since_ = now;
  if (events_) events_->mark(phase);
}

void StepClock::gradients_ready() {
  if (events_) enter(waiting);
}

void StepClock::step_ends() {
  enter(log);
  if (events_) events_->mark(phases);
  running_ = false;
  comm_s_ += world_.comm_wait_s() - waited_before_;
  ++steps_;
}

StepFigures StepClock::gather() {
  if (events_) {
    events_->add_to(seconds_);
    if (replays_ > 0) {
      const double waited = 1e-3 * replayed_->ms_after_mark(0) * static_cast<double>(replays_);
      const double moved = std::min(waited, seconds_[backward]);
      seconds_[backward] -= moved;
      seconds_[waiting] += moved;
    }
    comm_s_ = seconds_[waiting];
  }
  const double all = std::accumulate(seconds_.begin(), seconds_.end(), 0.0);
  const double to_ms = steps_ > 0 ? 1e3 / static_cast<double>(steps_) : 0;
  constexpr double kGib = 1024.0 * 1024 * 1024;
  const std::array<double, 4> mine = {std::max(0.0, all - seconds_[data] - comm_s_) * to_ms, seconds_[data] * to_ms,
                                      comm_s_ * to_ms, static_cast<double>(peak_memory(world_.device())) / kGib};
  const auto ranks = static_cast<size_t>(world_.size());
  const auto rank = static_cast<size_t>(world_.rank());
  std::vector<double> table(mine.size() * ranks, 0.0);
  for (size_t i = 0; i < mine.size(); ++i) table[i * ranks + rank] = mine[i];
  world_.sum(table);
  const auto row = [&](size_t i) {
    const auto first = table.begin() + static_cast<ptrdiff_t>(i * ranks);
    return spread(std::vector<double>(first, first + static_cast<ptrdiff_t>(ranks)));
  };
  seconds_ = {};
  comm_s_ = 0;
  steps_ = 0;
  replays_ = 0;
  return {.compute = row(0), .data_wait = row(1), .comm_wait = row(2), .gpu_memory = row(3)};
}

}  // namespace lockstep
