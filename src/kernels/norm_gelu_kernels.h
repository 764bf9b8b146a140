// The loops of batch_norm_gelu and gelu, over pixels of `channels` values side by side.
#pragma once

#include <cstdint>

#include "kernels/processor.h"

namespace lockstep::kernels {

/// Element types by their bits: uint32_t is float32, uint16_t is bfloat16. All else is float32, one value a channel.
template <typename Bits>
struct NormGeluKernels {
  /// sum[c] = sum of x, squares[c] = sum of x², over the pixels.
  void (*sums)(const Bits* x, int64_t pixels, int64_t channels, float* sum, float* squares);
  /// y = gelu(scale x + shift)
  void (*forward)(const Bits* x, const float* scale, const float* shift, Bits* y, int64_t pixels, int64_t channels);
  /// dz = gradient gelu'(scale x + shift), and over the pixels the sums of dz and of dz (x - mean).
  void (*backward)(const Bits* x, const Bits* gradient, const float* scale, const float* shift, const float* mean,
                   Bits* dz, int64_t pixels, int64_t channels, float* sum, float* product);
  /// In place: dz = of_dz dz + of_x x + constant
  void (*combine)(const Bits* x, const float* of_dz, const float* of_x, const float* constant, Bits* dz, int64_t pixels,
                  int64_t channels);
  void (*gelu)(const Bits* x, Bits* y, int64_t count);
  /// dx = gradient gelu'(x)
  void (*gelu_backward)(const Bits* x, const Bits* gradient, Bits* dx, int64_t count);
};

template <typename Bits>
NormGeluKernels<Bits> norm_gelu_kernels(Processor processor);

}  // namespace lockstep::kernels
