// How fast a run trains.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace lockstep {

/// Images over seconds of an interval, evaluation and saving left out.
class Speed {
 public:
  void add(int64_t images) { images_ += images; }
  void pause() { spent_ += since_start(); }
  void resume() { started_ = Clock::now(); }
  double images_per_s() const { return static_cast<double>(images_) / std::max(1e-9, spent_ + since_start()); }
  void restart() {
    images_ = 0;
    spent_ = 0;
    resume();
  }

 private:
  using Clock = std::chrono::steady_clock;
  double since_start() const { return std::chrono::duration<double>(Clock::now() - started_).count(); }

  Clock::time_point started_ = Clock::now();
  int64_t images_ = 0;
  double spent_ = 0;
};

}  // namespace lockstep
