// The loops of max_pool2x2, for one row of outputs.
#pragma once

#include <cstdint>

#include "kernels/processor.h"

namespace lockstep::kernels {

/// Element types: float, and bfloat16 as its bits.
template <typename Bits>
struct PoolKernels {
  /// upper, lower: two rows of inputs, pixels of `channels` values side by side (contiguous images have rows of pixels
  /// of one value). out, winner: `pixels` outputs of as many; winner: 0 to 3, row by row in the window.
  void (*forward)(const Bits* upper, const Bits* lower, Bits* out, uint8_t* winner, int64_t pixels, int64_t channels);
  /// Writes every value of two rows of 2 * pixels pixels: the gradient to the winner, 0 to the others.
  void (*backward)(const Bits* gradient, const uint8_t* winner, Bits* upper, Bits* lower, int64_t pixels,
                   int64_t channels);
};

/// float32's bits are uint32_t, bfloat16's uint16_t.
template <typename Bits>
PoolKernels<Bits> pool_kernels(Processor processor);

}  // namespace lockstep::kernels
