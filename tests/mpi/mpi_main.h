// The job that the tests of this program share.
#pragma once

#include <ATen/ATen.h>

#include <cstdlib>
#include <string>

#include "lockstep/world.h"

namespace lockstep {

World& world();

namespace test {

/// Whether ranks have no memory in common, and should have none.
inline bool nothing_to_share() {
  const char* const wish = std::getenv("LOCKSTEP_SHARED_MEMORY");
  return world().size() == 1 || (wish != nullptr && std::string(wish) == "off");
}
inline constexpr const char* kNothingToShare = "one rank, or LOCKSTEP_SHARED_MEMORY=off";

inline int last() { return world().size() - 1; }
inline bool alone() { return world().size() == 1; }

/// Twelve rows: 1, 2, 3 and 4 ranks all divide them.
inline at::Tensor inputs() { return at::arange(72, at::kFloat).reshape({12, 6}).sin(); }
inline at::Tensor share(const at::Tensor& rows) {
  return rows.chunk(world().size())[static_cast<size_t>(world().rank())];
}

}  // namespace test

}  // namespace lockstep
