// What a rank's main thread is doing, for those who wait for it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace lockstep {

/// Written by one thread, read by any.
class Whereabouts {
 public:
  struct Now {
    const char* doing = nullptr;  ///< null: nothing was said yet
    int64_t step = 0;
    double seconds = 0;  ///< since that was said
  };

  /// `doing` is a literal, such as "forward".
  void enter(const char* doing, int64_t step) {
    if (step > 0) last_step_.store(step, std::memory_order_relaxed);
    step_.store(step, std::memory_order_relaxed);
    since_.store(Clock::now().time_since_epoch().count(), std::memory_order_relaxed);
    doing_.store(doing, std::memory_order_release);
  }

  /// The last step that was named, also when nothing is done any more; 0: none.
  int64_t last_step() const { return last_step_.load(std::memory_order_relaxed); }

  Now now() const {
    const char* const doing = doing_.load(std::memory_order_acquire);
    if (doing == nullptr) return {};
    const Clock::time_point since{Clock::duration(since_.load(std::memory_order_relaxed))};
    return {doing, step_.load(std::memory_order_relaxed), std::chrono::duration<double>(Clock::now() - since).count()};
  }

 private:
  using Clock = std::chrono::steady_clock;
  std::atomic<const char*> doing_ = nullptr;
  std::atomic<int64_t> step_ = 0;
  std::atomic<int64_t> last_step_ = 0;
  std::atomic<Clock::rep> since_ = 0;
};

}  // namespace lockstep
