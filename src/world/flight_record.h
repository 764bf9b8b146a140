// The last operations of a rank, to look at after a failure.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string>

#include "world/call.h"
#include "world/whereabouts.h"

namespace lockstep {

/// A ring of the last 200 operations of MPI. Not thread-safe: the comm thread's lock covers it.
class FlightRecord {
 public:
  using Clock = std::chrono::steady_clock;

  void begun(uint64_t number, const std::string& name, int64_t bytes, const Whereabouts::Now& where,
             Clock::time_point at, uint64_t collective = 0, const Call& call = {});
  void ended(uint64_t number, bool well, Clock::time_point at);

  /// The collective of this number; none where it was not begun, or more than 200 operations ago.
  Call collective(uint64_t number) const;

  struct Head {
    int rank = 0;
    int size = 1;
    std::string host;
    std::string reason;  ///< why it was written
    Whereabouts::Now where;
  };
  /// A JSON object: who and where, then the operations, oldest first. Times are seconds before `now`.
  std::string json(const Head& head, Clock::time_point now) const;

 private:
  struct Entry {
    uint64_t number = 0;  // 0: none
    std::string name;
    int64_t bytes = 0;
    uint64_t collective = 0;  // 0: none
    Call call;
    int64_t step = 0;
    const char* doing = nullptr;
    Clock::time_point begun;
    Clock::time_point ended;
    enum class State { under_way, done, failed } state = State::under_way;
  };
  std::array<Entry, 200> entries_;
};

}  // namespace lockstep
