// For winograd_loops.h only, which says what Numbers are: the maps of kernels, which are the factors of all products,
// and of their gradients.
#include <immintrin.h>

#include "kernels/conv/winograd_kernels.h"
#include "kernels/conv/winograd_maps.h"
#include "kernels/vectors.h"

namespace lockstep::kernels {
namespace {

template <typename Numbers, int64_t kKernel>
struct WinogradFactors {
  using Maps = WinogradMaps<kKernel>;
  using Value = typename Numbers::Value;
  using Kernels = WinogradKernels<Value>;
  using Sight = typename Kernels::Sight;

  static constexpr int64_t kTogether = Kernels::kTogether;
  static constexpr int64_t kLanes = kWinogradLanes;
  static constexpr int64_t kPoints = Maps::kPoints;
  static constexpr int64_t kPlaces = kKernel * kKernel;

  // The factors of sixteen kernels, or of those turned around.
  template <bool kTurned>
  LOCKSTEP_TARGET LOCKSTEP_INLINE void factors_of(const float* weights, int64_t in, __mmask16 mask,
                                                  __m512 (&to)[kWinogradProducts]) {
    __m512 half[kKernel][kPoints];
#pragma GCC unroll 8
    for (int64_t column = 0; column < kKernel; ++column) {
      __m512 values[kKernel];
#pragma GCC unroll 8
      for (int64_t row = 0; row < kKernel; ++row) {
        const int64_t place = row * kKernel + column;
        values[row] = _mm512_maskz_loadu_ps(mask, weights + (kTurned ? kPlaces - 1 - place : place) * in);
      }
      Maps::from_kernel(values, half[column]);
    }
#pragma GCC unroll 8
    for (int64_t row = 0; row < kPoints; ++row) {
      __m512 values[kKernel];
#pragma GCC unroll 8
      for (int64_t column = 0; column < kKernel; ++column) values[column] = half[column][row];
      Maps::from_kernel(values, to + row * kPoints);
    }
  }

  LOCKSTEP_TARGET static void factors(int64_t in, int64_t out, int64_t block, const float* weights, Sight* to) {
    constexpr int64_t kChannels = kLanes * kTogether;  // that go in, at a time
    const int64_t padded = winograd_padded(in);
    alignas(64) Sight made[kWinogradProducts][kWinogradChannels][kLanes];
    for (int64_t c = 0; c < padded; c += kChannels) {
      for (int64_t o = 0; o < kWinogradChannels; ++o) {
        for (int64_t part = 0; part < kTogether; ++part) {
          __m512 all[kWinogradProducts];
          const int64_t first = c + part * kLanes;
          factors_of<false>(weights + (block * kWinogradChannels + o) * kPlaces * in + first, in,
                            winograd_mask(in - first), all);
#pragma GCC unroll 36
          for (int64_t k = 0; k < kWinogradProducts; ++k) {
            Numbers::store(all[k], 0xffff, static_cast<Value*>(static_cast<void*>(made[k][o])) + part * kLanes);
          }
        }
      }
      for (int64_t k = 0; k < kWinogradProducts; ++k) {
        Sight* const there = to + ((k * out + block * kWinogradChannels) * padded + c * kWinogradChannels) / kTogether;
        for (int64_t sight = 0; sight < kLanes; ++sight) {
          for (int64_t o = 0; o < kWinogradChannels; ++o) there[sight * kWinogradChannels + o] = made[k][o][sight];
        }
      }
    }
  }

  LOCKSTEP_TARGET static void turned_factors(int64_t in, int64_t out, int64_t block, const float* weights, Sight* to) {
    for (int64_t o = 0; o < out; o += kTogether) {
      for (int64_t part = 0; part < kWinogradChannels / kLanes; ++part) {
        const int64_t c = block * kWinogradChannels + part * kLanes;
        const float* const from = weights + o * kPlaces * in + c;
        const __mmask16 mask = winograd_mask(in - c);
        __m512 first[kWinogradProducts], second[kWinogradProducts];
        factors_of<true>(from, in, mask, first);
        if constexpr (kTogether == 2) factors_of<true>(from + kPlaces * in, in, mask, second);
        Sight* const there = to + (block * out + o) * kWinogradChannels / kTogether + part * kLanes;
#pragma GCC unroll 36
        for (int64_t k = 0; k < kWinogradProducts; ++k) {
          Numbers::see(first[k], kTogether == 2 ? second[k] : first[k],
                       there + k * winograd_padded(in) * out / kTogether);
        }
      }
    }
  }

  LOCKSTEP_TARGET static void of_weights(int64_t in, int64_t out, int64_t channel, const float* of_factors, float* to) {
    const int64_t padded = winograd_padded(in);
    for (int64_t c = 0; c < in; c += kLanes) {
      const float* const from = of_factors + channel * padded + c;
      __m512 half[kPoints][kKernel];
#pragma GCC unroll 8
      for (int64_t column = 0; column < kPoints; ++column) {
        __m512 values[kPoints];
#pragma GCC unroll 8
        for (int64_t row = 0; row < kPoints; ++row) {
          values[row] = _mm512_loadu_ps(from + (row * kPoints + column) * padded * out);
        }
        Maps::to_kernel(values, half[column]);
      }
#pragma GCC unroll 8
      for (int64_t row = 0; row < kKernel; ++row) {
        __m512 values[kPoints], made[kKernel];
#pragma GCC unroll 8
        for (int64_t column = 0; column < kPoints; ++column) values[column] = half[column][row];
        Maps::to_kernel(values, made);
#pragma GCC unroll 8
        for (int64_t column = 0; column < kKernel; ++column) {
          _mm512_mask_storeu_ps(to + (channel * kPlaces + row * kKernel + column) * in + c, winograd_mask(in - c),
                                made[column]);
        }
      }
    }
  }
};

}  // namespace
}  // namespace lockstep::kernels
