// Vectors of as many values as a register of the processor holds; g++ makes code that goes through memory from longer
// ones. They are passed by reference: by value, their place would depend on the target.
#pragma once

#include <cstdint>
#include <cstring>

#define LOCKSTEP_INLINE [[gnu::always_inline]] static inline

namespace lockstep::kernels {

// One by one: g++ 12 takes no template parameter for the size.
template <int64_t kLanes>
struct Vectors;
#define LOCKSTEP_VECTORS(lanes)                              \
  template <>                                                \
  struct Vectors<lanes> {                                    \
    using Floats [[gnu::vector_size(lanes * 4)]] = float;    \
    using Words [[gnu::vector_size(lanes * 4)]] = uint32_t;  \
    using Signed [[gnu::vector_size(lanes * 4)]] = int32_t;  \
    using Halves [[gnu::vector_size(lanes * 2)]] = uint16_t; \
    using Bytes [[gnu::vector_size(lanes)]] = uint8_t;       \
  };
LOCKSTEP_VECTORS(4)
LOCKSTEP_VECTORS(8)
LOCKSTEP_VECTORS(16)
#undef LOCKSTEP_VECTORS

}  // namespace lockstep::kernels
