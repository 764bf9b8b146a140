// By AVX-512's products of pairs, two windows at a time: sum += first * first + second * second, in float32.
#include "kernels/conv/pooled_gradient_kernels.h"
#include "kernels/processor.h"

#ifdef __x86_64__
#define LOCKSTEP_TARGET LOCKSTEP_FOR_AVX512_BF16
#include "kernels/conv/pooled_gradient_loops.h"

namespace lockstep::kernels {
namespace {

struct BFloat16 {
  using Value = uint16_t;

  LOCKSTEP_TARGET LOCKSTEP_INLINE float value(uint16_t bits) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
  }

  LOCKSTEP_TARGET LOCKSTEP_INLINE void load(const uint16_t* from, __m128i& to) { std::memcpy(&to, from, sizeof to); }

  LOCKSTEP_TARGET LOCKSTEP_INLINE void store(const __m128i& left, const __m128i& right, uint16_t* to) {
    auto* tables = static_cast<__m128i_u*>(static_cast<void*>(to));
    _mm_storeu_si128(tables, _mm_unpacklo_epi64(left, right));
    _mm_storeu_si128(tables + 1, _mm_unpackhi_epi64(left, right));
  }

  // The tables of four places, from pairs side by side: of a window's upper row and its lower one, and of the window's
  // to the right.
  LOCKSTEP_TARGET LOCKSTEP_INLINE void store(const __m128i& upper, const __m128i& lower, const __m128i& next_upper,
                                             const __m128i& next_lower, uint16_t* to) {
    store(_mm_unpacklo_epi32(upper, lower), _mm_unpacklo_epi32(next_upper, next_lower), to);
    store(_mm_unpackhi_epi32(upper, lower), _mm_unpackhi_epi32(next_upper, next_lower), to + 16);
  }

  // Tables each of a place, the one to its right, and the two below them, and the same of the window to the right.
  LOCKSTEP_TARGET LOCKSTEP_INLINE void tables(const uint16_t* upper, const uint16_t* lower, uint16_t* __restrict to,
                                              int64_t across, int64_t channels) {
    const int64_t c = channels;
    int64_t i = 0;
    for (; i + 8 <= across; i += 8) {
      __m128i a0, a1, a2, a3, b0, b1, b2, b3;
      load(upper + i, a0), load(upper + i + c, a1), load(upper + i + 2 * c, a2), load(upper + i + 3 * c, a3);
      load(lower + i, b0), load(lower + i + c, b1), load(lower + i + 2 * c, b2), load(lower + i + 3 * c, b3);
      store(_mm_unpacklo_epi16(a0, a1), _mm_unpacklo_epi16(b0, b1), _mm_unpacklo_epi16(a2, a3),
            _mm_unpacklo_epi16(b2, b3), to + i * 8);
      store(_mm_unpackhi_epi16(a0, a1), _mm_unpackhi_epi16(b0, b1), _mm_unpackhi_epi16(a2, a3),
            _mm_unpackhi_epi16(b2, b3), to + i * 8 + 32);
    }
    for (; i < across; ++i) {
      const uint16_t table[8] = {upper[i],         upper[i + c],     lower[i],         lower[i + c],
                                 upper[i + 2 * c], upper[i + 3 * c], lower[i + 2 * c], lower[i + 3 * c]};
      std::memcpy(to + i * 8, table, sizeof table);
    }
  }

  LOCKSTEP_TARGET LOCKSTEP_INLINE void choose(const uint16_t* gradient, const uint8_t* winners, int64_t next,
                                              uint32_t* __restrict words) {
    const uint32_t right = next == 0 ? 0 : 0xffff0000U;
    for (int64_t c = 0; c < kPooledBlock; ++c) {
      words[c] = gradient[c] | (static_cast<uint32_t>(gradient[next + c]) << 16 & right);
      words[kPooledBlock + c] = winners[c] | static_cast<uint32_t>(winners[next + c] + 4) << 16;
    }
  }

  LOCKSTEP_TARGET LOCKSTEP_INLINE void add(__m512& sum, const __m128i& table, const __m512i& gradients,
                                           const __m512i& places) {
    // Unmasked, g++ 12 warns of a value that is not set.
    const __m512i seen = _mm512_maskz_permutexvar_epi16(~__mmask32{0}, places, _mm512_castsi128_si512(table));
    sum = _mm512_dpbf16_ps(sum, (__m512bh)seen, (__m512bh)gradients);
  }
};

}  // namespace

template <>
std::optional<PooledGradientKernels<uint16_t>> pooled_gradient_kernels() {
  if (!has_fast_bfloat16_vectors()) return std::nullopt;
  return PooledLoops<BFloat16>::all();
}

}  // namespace lockstep::kernels
#else
namespace lockstep::kernels {

template <>
std::optional<PooledGradientKernels<uint16_t>> pooled_gradient_kernels() {
  return std::nullopt;
}

}  // namespace lockstep::kernels
#endif
