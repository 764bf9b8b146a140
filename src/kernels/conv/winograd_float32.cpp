#include "kernels/conv/winograd_kernels.h"
#include "kernels/processor.h"

#ifdef __x86_64__
#define LOCKSTEP_TARGET LOCKSTEP_FOR_AVX512
#include "kernels/conv/products_float32.h"
#include "kernels/conv/winograd_loops.h"

namespace lockstep::kernels {
namespace {

struct Float32 : Float32Products {
  using Float32Products::load;

  LOCKSTEP_TARGET LOCKSTEP_INLINE void load(const float* from, __mmask16 mask, __m512& to) {
    to = _mm512_maskz_loadu_ps(mask, from);
  }
  LOCKSTEP_TARGET LOCKSTEP_INLINE void store(const __m512& from, __mmask16 mask, float* to) {
    _mm512_mask_storeu_ps(to, mask, from);
  }
  LOCKSTEP_TARGET LOCKSTEP_INLINE void see(const __m512& first, const __m512&, float* to) {
    _mm512_storeu_ps(to, first);
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

}  // namespace lockstep::kernels
#else
namespace lockstep::kernels {

template <>
std::optional<WinogradKernels<float>> winograd_kernels(int64_t) {
  return std::nullopt;
}

}  // namespace lockstep::kernels
#endif
