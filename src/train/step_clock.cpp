#include "train/step_clock.h"

#include <algorithm>
#include <numeric>

#include "lockstep/world.h"
#include "log/trace.h"

namespace lockstep {
namespace {

constexpr const char* kNames[] = {"data", "forward", "backward", "optimizer", "log"};

}  // namespace

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
  if (running_) {
    seconds_[phase_] += std::chrono::duration<double>(now - since_).count();
    if (trace_ != nullptr) trace_->span(kNames[phase_], since_, now);
  } else {
    waited_before_ = world_.comm_wait_s();
  }
  running_ = true;
  phase_ = phase;
  since_ = now;
}

void StepClock::step_ends() {
  enter(log);
  running_ = false;
  comm_s_ += world_.comm_wait_s() - waited_before_;
  ++steps_;
}

StepFigures StepClock::gather() {
  const double all = std::accumulate(seconds_.begin(), seconds_.end(), 0.0);
  const double to_ms = steps_ > 0 ? 1e3 / static_cast<double>(steps_) : 0;
  const std::array<double, 3> mine = {std::max(0.0, all - seconds_[data] - comm_s_), seconds_[data], comm_s_};
  const auto ranks = static_cast<size_t>(world_.size());
  const auto rank = static_cast<size_t>(world_.rank());
  std::vector<double> table(3 * ranks, 0.0);
  for (size_t i = 0; i < 3; ++i) table[i * ranks + rank] = mine[i] * to_ms;
  world_.sum(table);
  const auto row = [&](size_t i) {
    const auto first = table.begin() + static_cast<ptrdiff_t>(i * ranks);
    return spread(std::vector<double>(first, first + static_cast<ptrdiff_t>(ranks)));
  };
  seconds_ = {};
  comm_s_ = 0;
  steps_ = 0;
  return {.compute = row(0), .data_wait = row(1), .comm_wait = row(2)};
}

}  // namespace lockstep
