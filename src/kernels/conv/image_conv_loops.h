// For the files of these loops only, each of which says in LOCKSTEP_TARGET for which processor they are compiled, and
// in Numbers what of, besides the products of products_*.h (spread takes Values and Sights):
//   Value, Sight        as in the kernels
//   kTogether           values in a Sight: taps of a window's row (forward), pixels (backward)
//   store(sum, values)  sixteen Values
//   kOne                a Sight of ones
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kernels/conv/image_conv_kernels.h"
#include "kernels/processor.h"
#include "kernels/vectors.h"

namespace lockstep::kernels {
namespace {

template <typename Numbers>
struct ConvLoops {
  using Value = typename Numbers::Value;
  using Sight = typename Numbers::Sight;
  using Register = typename Numbers::Register;

  static constexpr int64_t kLanes = 16;
  static constexpr int64_t kParts = kOutBlock / kLanes;
  static constexpr int64_t kPixels = 8;  // outputs of a row at a time: what the registers hold
  static constexpr int64_t kTaps = 8;    // of a window's row, whose gradients are summed at a time

  // kCount sums for kOutBlock channels each; `apart` from one to the next.
  template <int64_t kCount>
  LOCKSTEP_TARGET LOCKSTEP_INLINE void load(const float* from, int64_t apart, __m512 (&sum)[kCount][kParts]) {
#pragma GCC unroll 16
    for (int64_t i = 0; i < kCount; ++i) {
#pragma GCC unroll 2
      for (int64_t part = 0; part < kParts; ++part) sum[i][part] = _mm512_loadu_ps(from + i * apart + part * kLanes);
    }
  }

  // Adds `factors` times kCount Sights, `apart` from one to the next.
  template <int64_t kCount, typename Element>
  LOCKSTEP_TARGET LOCKSTEP_INLINE void add(const Sight* factors, const Element* from, int64_t apart,
                                           __m512 (&sum)[kCount][kParts]) {
    Register factor[kParts];
#pragma GCC unroll 2
    for (int64_t part = 0; part < kParts; ++part) Numbers::load(factors + part * kLanes, factor[part]);
#pragma GCC unroll 16
    for (int64_t i = 0; i < kCount; ++i) {
      Register value;
      Numbers::spread(from + i * apart, value);
#pragma GCC unroll 2
      for (int64_t part = 0; part < kParts; ++part) Numbers::add(sum[i][part], factor[part], value);
    }
  }

  template <int64_t kCount>
  LOCKSTEP_TARGET LOCKSTEP_INLINE void pixels(const ConvShape& s, const Value* corner, const Sight* weights,
                                              const float* bias, Value* out) {
    __m512 sum[kCount][kParts];
    load(bias, 0, sum);
    for (int64_t row = 0; row < s.kernel_height; ++row) {
      const Value* from = corner + row * s.padded_row;
      for (int64_t tap = 0; tap < s.row_taps; tap += Numbers::kTogether, weights += s.out_channels) {
        add(weights, from + tap, s.channels, sum);
      }
    }
#pragma GCC unroll 16
    for (int64_t p = 0; p < kCount; ++p) {
#pragma GCC unroll 2
      for (int64_t part = 0; part < kParts; ++part) {
        Numbers::store(sum[p][part], out + p * s.out_channels + part * kLanes);
      }
    }
  }

  LOCKSTEP_TARGET static void forward(const ConvShape& s, const Value* padded, const Sight* weights, const float* bias,
                                      Value* out) {
    for (int64_t c = 0; c < s.out_channels; c += kOutBlock) {
      for (int64_t y = 0; y < s.height; ++y) {
        const Value* corner = padded + y * s.padded_row;
        Value* to = out + y * s.width * s.out_channels + c;
        int64_t x = 0;
        for (; x + kPixels <= s.width; x += kPixels) {
          pixels<kPixels>(s, corner + x * s.channels, weights + c, bias + c, to + x * s.out_channels);
        }
        for (; x < s.width; ++x) {
          pixels<1>(s, corner + x * s.channels, weights + c, bias + c, to + x * s.out_channels);
        }
      }
    }
  }

  // The sums of kCount taps of one row of the window, over all pixels.
  template <int64_t kCount>
  LOCKSTEP_TARGET LOCKSTEP_INLINE void taps(const ConvShape& s, const Sight* corner, const Sight* gradient,
                                            float* of_weights) {
    __m512 sum[kCount][kParts];
    load(of_weights, s.out_channels, sum);
    for (int64_t y = 0; y < s.height; ++y) {
      const Sight* from = corner + y * s.padded_row;
      for (int64_t x = 0; x < s.width; x += Numbers::kTogether) {
        add(gradient, from, 1, sum);
        from += Numbers::kTogether * s.channels;
        gradient += s.out_channels;
      }
    }
#pragma GCC unroll 16
    for (int64_t tap = 0; tap < kCount; ++tap) {
#pragma GCC unroll 2
      for (int64_t part = 0; part < kParts; ++part) {
        _mm512_storeu_ps(of_weights + tap * s.out_channels + part * kLanes, sum[tap][part]);
      }
    }
  }

  // The same for a number of taps that is known at run time.
  template <int64_t kCount = kTaps>
  LOCKSTEP_TARGET LOCKSTEP_INLINE void some_taps(const ConvShape& s, int64_t count, const Sight* corner,
                                                 const Sight* gradient, float* of_weights) {
    if constexpr (kCount > 0) {
      if (count == kCount) return taps<kCount>(s, corner, gradient, of_weights);
      some_taps<kCount - 1>(s, count, corner, gradient, of_weights);
    }
  }

  LOCKSTEP_TARGET static void backward(const ConvShape& s, const Sight* padded, const Sight* gradient,
                                       float* of_weights, float* of_bias) {
    const int64_t sights = s.height * ((s.width + Numbers::kTogether - 1) / Numbers::kTogether);
    for (int64_t c = 0; c < s.out_channels; c += kOutBlock) {
      for (int64_t row = 0; row < s.kernel_height; ++row) {
        const Sight* corner = padded + row * s.padded_row;
        float* to = of_weights + row * s.row_taps * s.out_channels + c;
        for (int64_t tap = 0; tap < s.row_taps; tap += kTaps) {
          some_taps(s, std::min(kTaps, s.row_taps - tap), corner + tap, gradient + c, to + tap * s.out_channels);
        }
      }
      __m512 sum[1][kParts];
      load(of_bias + c, 0, sum);
      for (int64_t i = 0; i < sights; ++i) add(gradient + i * s.out_channels + c, &Numbers::kOne, 0, sum);
#pragma GCC unroll 2
      for (int64_t part = 0; part < kParts; ++part) _mm512_storeu_ps(of_bias + c + part * kLanes, sum[0][part]);
    }
  }
};

}  // namespace
}  // namespace lockstep::kernels
