// Of bfloat16, by AVX-512's products of pairs: sum += first * first + second * second, in float32.
#include "ops/conv/image_conv_kernels.h"
#include "ops/processor.h"

#ifdef __x86_64__
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "ops/vectors.h"

namespace lockstep {
namespace {

#define LOCKSTEP_PART LOCKSTEP_FOR_AVX512_BF16 LOCKSTEP_INLINE

constexpr int64_t kWords = 16;                      // of a register
constexpr int64_t kRegisters = kOutBlock / kWords;  // that hold the output channels which are taken at once
constexpr int64_t kPixelBlock = 8;                  // outputs of a row at a time: what the registers hold
constexpr int64_t kPlaces = 8;                      // of a window's row, whose gradients are summed at a time
constexpr uint32_t kOnes = 0x3f803f80;              // a pair

// By reference: by value, its place would depend on the target.
LOCKSTEP_PART void add_products(__m512& sum, const __m512i& a, const __m512i& b) {
  sum = _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

template <int64_t kCount>
LOCKSTEP_PART void pixels(const ConvShape& s, const uint16_t* corner, const uint32_t* weights, const float* bias,
                          uint16_t* out) {
  __m512 sum[kCount][kRegisters];
#pragma GCC unroll 16
  for (int64_t p = 0; p < kCount; ++p) {
#pragma GCC unroll 2
    for (int64_t part = 0; part < kRegisters; ++part) sum[p][part] = _mm512_loadu_ps(bias + part * kWords);
  }
  for (int64_t row = 0; row < s.kernel_height; ++row) {
    const uint16_t* from = corner + row * s.padded_row;
    for (int64_t tap = 0; tap < s.row_taps; tap += 2, weights += s.out_channels) {
      __m512i weight[kRegisters];
#pragma GCC unroll 2
      for (int64_t part = 0; part < kRegisters; ++part) weight[part] = _mm512_loadu_si512(weights + part * kWords);
#pragma GCC unroll 16
      for (int64_t p = 0; p < kCount; ++p) {
        int32_t pair;
        std::memcpy(&pair, from + p * s.channels + tap, sizeof pair);
        const __m512i values = _mm512_set1_epi32(pair);
#pragma GCC unroll 2
        for (int64_t part = 0; part < kRegisters; ++part) {
          add_products(sum[p][part], weight[part], values);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int64_t p = 0; p < kCount; ++p) {
#pragma GCC unroll 2
    for (int64_t part = 0; part < kRegisters; ++part) {
      const __m256bh rounded = _mm512_cvtneps_pbh(sum[p][part]);
      std::memcpy(out + p * s.out_channels + part * kWords, &rounded, sizeof rounded);
    }
  }
}

LOCKSTEP_FOR_AVX512_BF16 void forward(const ConvShape& s, const uint16_t* padded, const uint32_t* weights,
                                      const float* bias, uint16_t* out) {
  for (int64_t c = 0; c < s.out_channels; c += kOutBlock) {
    for (int64_t y = 0; y < s.height; ++y) {
      const uint16_t* corner = padded + y * s.padded_row;
      uint16_t* to = out + y * s.width * s.out_channels + c;
      int64_t x = 0;
      for (; x + kPixelBlock <= s.width; x += kPixelBlock) {
        pixels<kPixelBlock>(s, corner + x * s.channels, weights + c, bias + c, to + x * s.out_channels);
      }
      for (; x < s.width; ++x) {
        pixels<1>(s, corner + x * s.channels, weights + c, bias + c, to + x * s.out_channels);
      }
    }
  }
}

// The sums of kCount taps of one row of the window, over all pixels.
template <int64_t kCount>
LOCKSTEP_PART void taps(const ConvShape& s, const uint32_t* corner, const uint32_t* gradient, float* of_weights) {
  __m512 sum[kCount][kRegisters];
#pragma GCC unroll 16
  for (int64_t tap = 0; tap < kCount; ++tap) {
#pragma GCC unroll 2
    for (int64_t part = 0; part < kRegisters; ++part) {
      sum[tap][part] = _mm512_loadu_ps(of_weights + tap * s.out_channels + part * kWords);
    }
  }
  for (int64_t y = 0; y < s.height; ++y) {
    const uint32_t* from = corner + y * s.padded_row;
    for (int64_t x = 0; x < s.width; x += 2, from += 2 * s.channels, gradient += s.out_channels) {
      __m512i g[kRegisters];
#pragma GCC unroll 2
      for (int64_t part = 0; part < kRegisters; ++part) g[part] = _mm512_loadu_si512(gradient + part * kWords);
#pragma GCC unroll 16
      for (int64_t tap = 0; tap < kCount; ++tap) {
        const __m512i values = _mm512_set1_epi32(static_cast<int32_t>(from[tap]));
#pragma GCC unroll 2
        for (int64_t part = 0; part < kRegisters; ++part) {
          add_products(sum[tap][part], g[part], values);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int64_t tap = 0; tap < kCount; ++tap) {
#pragma GCC unroll 2
    for (int64_t part = 0; part < kRegisters; ++part) {
      _mm512_storeu_ps(of_weights + tap * s.out_channels + part * kWords, sum[tap][part]);
    }
  }
}

// The same for a number of taps that is known at run time.
template <int64_t kCount = kPlaces>
LOCKSTEP_PART void some_taps(const ConvShape& s, int64_t count, const uint32_t* corner, const uint32_t* gradient,
                             float* of_weights) {
  if constexpr (kCount > 0) {
    if (count == kCount) return taps<kCount>(s, corner, gradient, of_weights);
    some_taps<kCount - 1>(s, count, corner, gradient, of_weights);
  }
}

LOCKSTEP_FOR_AVX512_BF16 void backward(const ConvShape& s, const uint32_t* padded, const uint32_t* gradient,
                                       float* of_weights, float* of_bias) {
  for (int64_t c = 0; c < s.out_channels; c += kOutBlock) {
    for (int64_t row = 0; row < s.kernel_height; ++row) {
      const uint32_t* corner = padded + row * s.padded_row;
      float* to = of_weights + row * s.row_taps * s.out_channels + c;
      for (int64_t tap = 0; tap < s.row_taps; tap += kPlaces) {
        some_taps(s, std::min(kPlaces, s.row_taps - tap), corner + tap, gradient + c, to + tap * s.out_channels);
      }
    }
  }
  const int64_t pairs = s.height * ((s.width + 1) / 2);
  const __m512i ones = _mm512_set1_epi32(kOnes);
  for (int64_t c = 0; c < s.out_channels; c += kWords) {
    __m512 sum = _mm512_loadu_ps(of_bias + c);
    for (int64_t i = 0; i < pairs; ++i) add_products(sum, _mm512_loadu_si512(gradient + i * s.out_channels + c), ones);
    _mm512_storeu_ps(of_bias + c, sum);
  }
}

// These two g++ turns into vector code.
LOCKSTEP_FOR_AVX512_BF16 void see(const uint16_t* padded, uint32_t* __restrict pairs, int64_t count, int64_t channels) {
  for (int64_t i = 0; i < count; ++i) pairs[i] = padded[i] | static_cast<uint32_t>(padded[i + channels]) << 16;
}

LOCKSTEP_FOR_AVX512_BF16 void pair(const uint16_t* gradient, uint32_t* __restrict pairs, int64_t width,
                                   int64_t out_channels) {
  for (int64_t x = 0; x + 1 < width; x += 2, pairs += out_channels, gradient += 2 * out_channels) {
    for (int64_t c = 0; c < out_channels; ++c) {
      pairs[c] = gradient[c] | static_cast<uint32_t>(gradient[out_channels + c]) << 16;
    }
  }
  if (width % 2 != 0) std::copy_n(gradient, out_channels, pairs);
}

#undef LOCKSTEP_PART

}  // namespace

std::optional<BFloat16Kernels> bfloat16_conv_kernels() {
  if (!has_fast_bfloat16_vectors()) return std::nullopt;
  return BFloat16Kernels{forward, backward, see, pair};
}

}  // namespace lockstep
#else
namespace lockstep {

std::optional<BFloat16Kernels> bfloat16_conv_kernels() { return std::nullopt; }

}  // namespace lockstep
#endif
