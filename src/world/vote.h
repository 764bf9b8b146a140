// A number that ranks agree on without waiting for each other.
#pragma once

#include <cstdint>
#include <memory>

namespace lockstep {

class World;
class Collective;

/// Each call hands in a value and gives the largest of those that all ranks handed in at the call before, so the
/// messages have the time between two calls to travel, and all ranks learn the same at the same call.
///
///     Vote vote(world);
///     for (…) { step(); if (vote.cast(wants_to_stop) > 0) break; }   // all ranks break after the same step
///
class Vote {
 public:
  explicit Vote(World& world) : world_(world) {}

  /// Collective. 0 at the first call.
  int64_t cast(int64_t value);

  /// Collective: the last vote comes to its end. To be called before MPI ends.
  void finish();

 private:
  World& world_;
  int64_t value_ = 0;  // handed in last, or agreed on where nothing is under way
  std::shared_ptr<Collective> under_way_;
};

}  // namespace lockstep
