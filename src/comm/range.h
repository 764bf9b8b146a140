// Parts of buffers.
#pragma once

#include <cstdint>

namespace lockstep {

/// Elements [first, first + count) of a buffer.
struct Range {
  int64_t first = 0;
  int64_t count = 0;
  bool operator==(const Range&) const = default;
};

}  // namespace lockstep
