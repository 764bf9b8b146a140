// A timeline of chosen steps in Chrome's trace format, for Perfetto (ui.perfetto.dev) and chrome://tracing.
#pragma once

#include <chrono>
#include <mutex>
#include <string>
#include <vector>

namespace lockstep {

/// The events of one rank. Format: "Trace Event Format" (Google, 2016): complete events (ph X) for what the main thread
/// does, one after the other, and asynchronous ones (ph b and e) for what goes on beside it. A process is a rank. Any
/// thread.
class Trace {
 public:
  using Clock = std::chrono::steady_clock;

  /// `origin` is time 0: the same moment on all ranks.
  Trace(int rank, std::string host, Clock::time_point origin);

  void span(const std::string& name, Clock::time_point begin, Clock::time_point end);
  void beside(const std::string& name, int64_t bytes, Clock::time_point begin, Clock::time_point end);

  /// The events as JSON objects joined by ",\n", the rank's name first.
  std::string events() const;

  /// A whole file from the events of all ranks.
  static std::string file(const std::vector<std::string>& events_of_ranks);

 private:
  double microseconds(Clock::time_point time) const;
  void add(const std::string& event);

  int rank_;
  Clock::time_point origin_;
  mutable std::mutex mutex_;
  int64_t next_id_ = 0;
  std::string events_;
};

}  // namespace lockstep
