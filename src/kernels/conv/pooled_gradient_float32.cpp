#include "kernels/conv/pooled_gradient_kernels.h"
#include "kernels/processor.h"

#ifdef __x86_64__
#define LOCKSTEP_TARGET LOCKSTEP_FOR_AVX512
#include "kernels/conv/pooled_gradient_loops.h"

namespace lockstep::kernels {
namespace {

struct Float32 {
  using Value = float;

  LOCKSTEP_TARGET LOCKSTEP_INLINE float value(float value) { return value; }

  // across tables, each of a place, the one to its right, and the two below them.
  LOCKSTEP_TARGET LOCKSTEP_INLINE void tables(const float* upper, const float* lower, float* __restrict tables,
                                              int64_t across, int64_t channels) {
    for (int64_t i = 0; i < across; ++i) {
      tables[4 * i] = upper[i];
      tables[4 * i + 1] = upper[i + channels];
      tables[4 * i + 2] = lower[i];
      tables[4 * i + 3] = lower[i + channels];
    }
  }

  LOCKSTEP_TARGET LOCKSTEP_INLINE void choose(const float* gradient, const uint8_t* winners, int64_t,
                                              uint32_t* __restrict words) {
    std::memcpy(words, gradient, kPooledBlock * sizeof *gradient);
    for (int64_t c = 0; c < kPooledBlock; ++c) words[kPooledBlock + c] = winners[c];
  }

  LOCKSTEP_TARGET LOCKSTEP_INLINE void add(__m512& sum, const __m128i& table, const __m512i& gradients,
                                           const __m512i& places) {
    // Unmasked, g++ 12 warns of a value that is not set.
    const __m512 seen = _mm512_maskz_permutexvar_ps(0xffff, places, _mm512_castps128_ps512(_mm_castsi128_ps(table)));
    sum = _mm512_fmadd_ps(seen, _mm512_castsi512_ps(gradients), sum);
  }
};

}  // namespace

template <>
std::optional<PooledGradientKernels<float>> pooled_gradient_kernels() {
  if (best_processor() != Processor::avx512) return std::nullopt;
  return PooledLoops<Float32>::all();
}

}  // namespace lockstep::kernels
#else
namespace lockstep::kernels {

template <>
std::optional<PooledGradientKernels<float>> pooled_gradient_kernels() {
  return std::nullopt;
}

}  // namespace lockstep::kernels
#endif
