// How fast a run trains.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace lockstep {

/// Seconds from the end of a step to the end of the next, of the steps of an interval. A machine that stands still for
/// a moment shows in the largest and not in the median.
struct StepTimes {
  double median = 0;
  double p95 = 0;
  double most = 0;
};

/// Images over seconds of an interval, evaluation and saving left out.
class Speed {
 public:
  /// A step has ended.
  void add(int64_t images) {
    images_ += images;
    const auto now = Clock::now();
    if (times_.size() < kMostTimes) times_.push_back(std::chrono::duration<double>(now - last_).count());
    last_ = now;
  }
  void pause() { spent_ += since_start(); }
  void resume() { last_ = started_ = Clock::now(); }
  double images_per_s() const { return static_cast<double>(images_) / std::max(1e-9, spent_ + since_start()); }
  /// All 0 without a step; of an even number the larger of the middle two.
  StepTimes step_times() const {
    if (times_.empty()) return {};
    std::vector<double> sorted = times_;
    std::sort(sorted.begin(), sorted.end());
    return {.median = sorted[sorted.size() / 2], .p95 = sorted[(sorted.size() - 1) * 95 / 100], .most = sorted.back()};
  }
  void restart() {
    times_.clear();
    images_ = 0;
    spent_ = 0;
    resume();
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::size_t kMostTimes = 1 << 16;  // without a log nobody restarts
  double since_start() const { return std::chrono::duration<double>(Clock::now() - started_).count(); }

  Clock::time_point started_ = Clock::now();
  Clock::time_point last_ = started_;  // end of a step
  std::vector<double> times_;
  int64_t images_ = 0;
  double spent_ = 0;
};

}  // namespace lockstep
