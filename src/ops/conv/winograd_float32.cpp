#include "ops/conv/winograd_kernels.h"
#include "ops/processor.h"

#ifdef __x86_64__
#define LOCKSTEP_TARGET LOCKSTEP_FOR_AVX512
#include "ops/conv/winograd_loops.h"

namespace lockstep {
namespace {

struct Float32 {
  using Value = float;
  using Register = __m512;

  LOCKSTEP_TARGET LOCKSTEP_INLINE void load(const float* from, __mmask16 mask, __m512& to) {
    to = _mm512_maskz_loadu_ps(mask, from);
  }
  LOCKSTEP_TARGET LOCKSTEP_INLINE void store(const __m512& from, __mmask16 mask, float* to) {
    _mm512_mask_storeu_ps(to, mask, from);
  }
  LOCKSTEP_TARGET LOCKSTEP_INLINE void see(const __m512& first, const __m512&, float* to) {
    _mm512_storeu_ps(to, first);
  }
  LOCKSTEP_TARGET LOCKSTEP_INLINE void load(const float* from, __m512& to) { to = _mm512_loadu_ps(from); }
  LOCKSTEP_TARGET LOCKSTEP_INLINE void spread(const float* from, __m512& to) { to = _mm512_set1_ps(*from); }
  LOCKSTEP_TARGET LOCKSTEP_INLINE void add(__m512& sum, const __m512& a, const __m512& b) {
    sum = _mm512_fmadd_ps(a, b, sum);
  }
};

}  // namespace

template <>
std::optional<WinogradKernels<float>> winograd_kernels(int64_t kernel) {
  if (best_processor() != Processor::avx512) return std::nullopt;
  if (kernel == 3) return WinogradLoops<Float32, 3>::all;
  if (kernel == 5) return WinogradLoops<Float32, 5>::all;
  return std::nullopt;
}

}  // namespace lockstep
#else
namespace lockstep {

template <>
std::optional<WinogradKernels<float>> winograd_kernels(int64_t) {
  return std::nullopt;
}

}  // namespace lockstep
#endif
