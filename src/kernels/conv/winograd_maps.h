// For the files of winograd_loops.h only: the maps along one side of a tile, of sixteen channels at once.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "kernels/vectors.h"

namespace lockstep::kernels {
namespace {

constexpr int64_t kWinogradLanes = 16;

// Of sixteen lanes those of the last channels, of which so many are left.
inline __mmask16 winograd_mask(int64_t left) {
  return static_cast<__mmask16>((1 << std::clamp<int64_t>(left, 0, kWinogradLanes)) - 1);
}

template <int64_t kKernel>
struct WinogradMaps {
  static constexpr int64_t kPoints = 6;
  static constexpr int64_t kTile = kPoints - kKernel + 1;

  // Powers of the points 1/sqrt(2) and sqrt(2).
  static constexpr float kNear = 0.70710678f, kFar = 1.41421356f;
  static constexpr std::array<float, 5> kNearPowers{1, kNear, 1.0f / 2, kNear / 2, 1.0f / 4};
  static constexpr std::array<float, 5> kFarPowers{1, kFar, 2, 2 * kFar, 4};

  // One of the six values that FromInput makes.
  template <int64_t kPoint>
  struct FromInputAt {
    LOCKSTEP_TARGET LOCKSTEP_INLINE void map(const __m512* in, __m512& to) {
      if constexpr (kPoint == 0) to = in[0] - 2.5f * in[2] + in[4];
      if constexpr (kPoint == 1) to = in[4] - 2 * in[2] + kNear * (in[3] - 2 * in[1]);
      if constexpr (kPoint == 2) to = in[4] - 2 * in[2] - kNear * (in[3] - 2 * in[1]);
      if constexpr (kPoint == 3) to = in[4] - in[2] / 2 + kFar * (in[3] - in[1] / 2);
      if constexpr (kPoint == 4) to = in[4] - in[2] / 2 - kFar * (in[3] - in[1] / 2);
      if constexpr (kPoint == 5) to = in[1] - 2.5f * in[3] + in[5];
    }
  };
  struct FromInput {
    LOCKSTEP_TARGET LOCKSTEP_INLINE void map(const __m512* in, __m512* to) {
      FromInputAt<0>::map(in, to[0]);
      FromInputAt<1>::map(in, to[1]);
      FromInputAt<2>::map(in, to[2]);
      FromInputAt<3>::map(in, to[3]);
      FromInputAt<4>::map(in, to[4]);
      FromInputAt<5>::map(in, to[5]);
    }
  };

  // One of the six values that FromOutput makes.
  template <int64_t kPoint>
  struct FromOutputAt {
    LOCKSTEP_TARGET LOCKSTEP_INLINE void map(const __m512* in, __m512& to) {
      if constexpr (kPoint == 0) to = in[0];
      if constexpr (kPoint == 5) to = in[kTile - 1];
      if constexpr (kPoint > 0 && kPoint < 5) {
        constexpr auto& kPowers = kPoint < 3 ? kNearPowers : kFarPowers;
        to = in[0];
#pragma GCC unroll 8
        for (int64_t k = 1; k < kTile; ++k) to += (k % 2 == 1 && kPoint % 2 == 0 ? -kPowers[k] : kPowers[k]) * in[k];
      }
    }
  };
  struct FromOutput {
    LOCKSTEP_TARGET LOCKSTEP_INLINE void map(const __m512* in, __m512* to) { from_powers<kTile>(in, 1, 1, to); }
  };

  LOCKSTEP_TARGET LOCKSTEP_INLINE void to_output(const __m512* in, __m512* to) { to_powers<kTile>(in, 1, 1, to); }

  // The points' other factors are the kernels'.
  LOCKSTEP_TARGET LOCKSTEP_INLINE void from_kernel(const __m512* in, __m512* to) {
    from_powers<kKernel>(in, -2.0f / 3, 1.0f / 6, to);
  }
  LOCKSTEP_TARGET LOCKSTEP_INLINE void to_kernel(const __m512* in, __m512* to) {
    to_powers<kKernel>(in, -2.0f / 3, 1.0f / 6, to);
  }

 private:
  // From a value at each of the points to kCount sums of the points' powers times their values; `near` and `far` are
  // factors of the values.
  template <int64_t kCount>
  LOCKSTEP_TARGET LOCKSTEP_INLINE void to_powers(const __m512* in, float near, float far, __m512* to) {
    const __m512 even_near = near * (in[1] + in[2]), odd_near = near * (in[1] - in[2]);
    const __m512 even_far = far * (in[3] + in[4]), odd_far = far * (in[3] - in[4]);
#pragma GCC unroll 8
    for (int64_t k = 0; k < kCount; ++k) {
      to[k] = kNearPowers[k] * (k % 2 == 0 ? even_near : odd_near) + kFarPowers[k] * (k % 2 == 0 ? even_far : odd_far);
    }
    to[0] += in[0];
    to[kCount - 1] += in[5];
  }

  // The transpose: from kCount coefficients to the polynomial's values at the points.
  template <int64_t kCount>
  LOCKSTEP_TARGET LOCKSTEP_INLINE void from_powers(const __m512* in, float near, float far, __m512* to) {
    __m512 even_near = in[0], odd_near = kNear * in[1], even_far = in[0], odd_far = kFar * in[1];
#pragma GCC unroll 8
    for (int64_t k = 2; k < kCount; ++k) {
      (k % 2 == 0 ? even_near : odd_near) += kNearPowers[k] * in[k];
      (k % 2 == 0 ? even_far : odd_far) += kFarPowers[k] * in[k];
    }
    to[0] = in[0];
    to[1] = near * (even_near + odd_near);
    to[2] = near * (even_near - odd_near);
    to[3] = far * (even_far + odd_far);
    to[4] = far * (even_far - odd_far);
    to[5] = in[kCount - 1];
  }
};

}  // namespace
}  // namespace lockstep::kernels
