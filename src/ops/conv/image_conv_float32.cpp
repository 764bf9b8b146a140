#include "ops/conv/image_conv_kernels.h"

#include <algorithm>

#include "ops/processor.h"
#include "ops/vectors.h"

namespace lockstep {
namespace {

// kPixels outputs of a row at a time: with kOutBlock channels each, what the registers hold.
template <int64_t kLanes, int64_t kPixels>
struct Loops {
  // Taps of a window's row whose gradients are summed at a time.
  static constexpr int64_t kTapBlock = 8;

  using Floats = typename Vectors<kLanes>::Floats;
  static constexpr int64_t kParts = kOutBlock / kLanes;

  LOCKSTEP_INLINE void load(const float* from, Floats& to) { std::memcpy(&to, from, sizeof to); }
  LOCKSTEP_INLINE void store(const Floats& from, float* to) { std::memcpy(to, &from, sizeof from); }

  template <int64_t kCount>
  LOCKSTEP_INLINE void pixels(const ConvShape& s, const float* corner, const float* weights, const float* bias,
                              float* out) {
    Floats sum[kCount][kParts];
#pragma GCC unroll 16
    for (int64_t p = 0; p < kCount; ++p) {
#pragma GCC unroll 8
      for (int64_t part = 0; part < kParts; ++part) load(bias + part * kLanes, sum[p][part]);
    }
    for (int64_t row = 0; row < s.kernel_height; ++row) {
      const float* from = corner + row * s.padded_row;
      for (int64_t tap = 0; tap < s.row_taps; ++tap, weights += s.out_channels) {
        Floats weight[kParts];
#pragma GCC unroll 8
        for (int64_t part = 0; part < kParts; ++part) load(weights + part * kLanes, weight[part]);
#pragma GCC unroll 16
        for (int64_t p = 0; p < kCount; ++p) {
          const float value = from[p * s.channels + tap];
#pragma GCC unroll 8
          for (int64_t part = 0; part < kParts; ++part) sum[p][part] += weight[part] * value;
        }
      }
    }
#pragma GCC unroll 16
    for (int64_t p = 0; p < kCount; ++p) {
#pragma GCC unroll 8
      for (int64_t part = 0; part < kParts; ++part) store(sum[p][part], out + p * s.out_channels + part * kLanes);
    }
  }

  LOCKSTEP_INLINE void forward(const ConvShape& s, const float* padded, const float* weights, const float* bias,
                               float* out) {
    for (int64_t c = 0; c < s.out_channels; c += kOutBlock) {
      for (int64_t y = 0; y < s.height; ++y) {
        const float* corner = padded + y * s.padded_row;
        float* to = out + y * s.width * s.out_channels + c;
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
  LOCKSTEP_INLINE void taps(const ConvShape& s, const float* corner, const float* gradient, float* of_weights) {
    Floats sum[kCount][kParts];
#pragma GCC unroll 16
    for (int64_t tap = 0; tap < kCount; ++tap) {
#pragma GCC unroll 8
      for (int64_t part = 0; part < kParts; ++part) {
        load(of_weights + tap * s.out_channels + part * kLanes, sum[tap][part]);
      }
    }
    for (int64_t y = 0; y < s.height; ++y) {
      const float* from = corner + y * s.padded_row;
      for (int64_t x = 0; x < s.width; ++x, from += s.channels, gradient += s.out_channels) {
        Floats g[kParts];
#pragma GCC unroll 8
        for (int64_t part = 0; part < kParts; ++part) load(gradient + part * kLanes, g[part]);
#pragma GCC unroll 16
        for (int64_t tap = 0; tap < kCount; ++tap) {
          const float value = from[tap];
#pragma GCC unroll 8
          for (int64_t part = 0; part < kParts; ++part) sum[tap][part] += g[part] * value;
        }
      }
    }
#pragma GCC unroll 16
    for (int64_t tap = 0; tap < kCount; ++tap) {
#pragma GCC unroll 8
      for (int64_t part = 0; part < kParts; ++part) {
        store(sum[tap][part], of_weights + tap * s.out_channels + part * kLanes);
      }
    }
  }

  // The same for a number of taps that is known at run time.
  template <int64_t kCount = kTapBlock>
  LOCKSTEP_INLINE void some_taps(const ConvShape& s, int64_t count, const float* corner, const float* gradient,
                                 float* of_weights) {
    if constexpr (kCount > 0) {
      if (count == kCount) return taps<kCount>(s, corner, gradient, of_weights);
      some_taps<kCount - 1>(s, count, corner, gradient, of_weights);
    }
  }

  LOCKSTEP_INLINE void backward(const ConvShape& s, const float* padded, const float* gradient, float* of_weights,
                                float* of_bias) {
    for (int64_t c = 0; c < s.out_channels; c += kOutBlock) {
      for (int64_t row = 0; row < s.kernel_height; ++row) {
        const float* corner = padded + row * s.padded_row;
        float* to = of_weights + row * s.row_taps * s.out_channels + c;
        for (int64_t tap = 0; tap < s.row_taps; tap += kTapBlock) {
          some_taps(s, std::min(kTapBlock, s.row_taps - tap), corner + tap, gradient + c, to + tap * s.out_channels);
        }
      }
      Floats sum[kParts];
#pragma GCC unroll 8
      for (int64_t part = 0; part < kParts; ++part) load(of_bias + c + part * kLanes, sum[part]);
      for (int64_t i = 0; i < s.height * s.width; ++i) {
#pragma GCC unroll 8
        for (int64_t part = 0; part < kParts; ++part) {
          Floats g;
          load(gradient + i * s.out_channels + c + part * kLanes, g);
          sum[part] += g;
        }
      }
#pragma GCC unroll 8
      for (int64_t part = 0; part < kParts; ++part) store(sum[part], of_bias + c + part * kLanes);
    }
  }
};

#ifdef __x86_64__
struct ForAvx512 {
  LOCKSTEP_FOR_AVX512 static void forward(const ConvShape& shape, const float* padded, const float* weights,
                                          const float* bias, float* out) {
    Loops<16, 8>::forward(shape, padded, weights, bias, out);
  }
  LOCKSTEP_FOR_AVX512 static void backward(const ConvShape& shape, const float* padded, const float* gradient,
                                           float* of_weights, float* of_bias) {
    Loops<16, 8>::backward(shape, padded, gradient, of_weights, of_bias);
  }
};
#endif

}  // namespace

std::optional<Float32Kernels> float32_conv_kernels() {
#ifdef __x86_64__
  if (best_processor() == Processor::avx512) return Float32Kernels{ForAvx512::forward, ForAvx512::backward};
#endif
  return std::nullopt;
}

}  // namespace lockstep
