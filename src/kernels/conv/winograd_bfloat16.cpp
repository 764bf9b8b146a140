#include "kernels/conv/winograd_kernels.h"
#include "kernels/processor.h"

#ifdef __x86_64__
#define LOCKSTEP_TARGET LOCKSTEP_FOR_AVX512_BF16
#include "kernels/conv/products_bfloat16.h"
#include "kernels/conv/winograd_loops.h"

namespace lockstep::kernels {
namespace {

struct BFloat16 : BFloat16Products {
  using BFloat16Products::load;

  // Unmasked, g++ 12 warns of values that are not set.
  static constexpr __mmask16 kAll = 0xffff;
  LOCKSTEP_TARGET LOCKSTEP_INLINE void widen(const __m256i& bits, __m512i& to) {
    to = _mm512_maskz_cvtepu16_epi32(kAll, bits);
  }
  LOCKSTEP_TARGET LOCKSTEP_INLINE void lift(const __m512i& from, __m512i& to) {
    to = _mm512_maskz_slli_epi32(kAll, from, 16);
  }

  LOCKSTEP_TARGET LOCKSTEP_INLINE void load(const uint16_t* from, __mmask16 mask, __m512& to) {
    __m512i wide;
    widen(_mm256_maskz_loadu_epi16(mask, from), wide);
    lift(wide, wide);
    to = _mm512_castsi512_ps(wide);
  }
  LOCKSTEP_TARGET LOCKSTEP_INLINE void store(const __m512& from, __mmask16 mask, uint16_t* to) {
    _mm256_mask_storeu_epi16(to, mask, (__m256i)_mm512_cvtneps_pbh(from));
  }
  LOCKSTEP_TARGET LOCKSTEP_INLINE void see(const __m512& first, const __m512& second, uint32_t* to) {
    __m512i low, high;
    widen((__m256i)_mm512_cvtneps_pbh(first), low);
    widen((__m256i)_mm512_cvtneps_pbh(second), high);
    lift(high, high);
    _mm512_storeu_si512(to, _mm512_or_si512(low, high));
  }
};

}  // namespace

template <>
std::optional<WinogradKernels<uint16_t>> winograd_kernels(int64_t kernel) {
  if (!has_fast_bfloat16_vectors()) return std::nullopt;
  if (kernel == 3) return WinogradLoops<BFloat16, 3>::all;
  if (kernel == 5) return WinogradLoops<BFloat16, 5>::all;
  return std::nullopt;
}

}  // namespace lockstep::kernels
#else
namespace lockstep::kernels {

template <>
std::optional<WinogradKernels<uint16_t>> winograd_kernels(int64_t) {
  return std::nullopt;
}

}  // namespace lockstep::kernels
#endif
