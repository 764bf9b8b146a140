#include "ops/conv/image_conv_kernels.h"
#include "ops/processor.h"

#ifdef __x86_64__
#define LOCKSTEP_TARGET LOCKSTEP_FOR_AVX512
#include "ops/conv/image_conv_loops.h"

namespace lockstep {
namespace {

struct Float32 {
  using Value = float;
  using Sight = float;
  using Register = __m512;
  static constexpr int64_t kTogether = 1;
  static constexpr float kOne = 1;

  LOCKSTEP_TARGET LOCKSTEP_INLINE void load(const float* from, __m512& to) { to = _mm512_loadu_ps(from); }
  LOCKSTEP_TARGET LOCKSTEP_INLINE void spread(const float* from, __m512& to) { to = _mm512_set1_ps(*from); }
  LOCKSTEP_TARGET LOCKSTEP_INLINE void add(__m512& sum, const __m512& a, const __m512& b) {
    sum = _mm512_fmadd_ps(a, b, sum);
  }
  LOCKSTEP_TARGET LOCKSTEP_INLINE void store(const __m512& sum, float* to) { _mm512_storeu_ps(to, sum); }
};

}  // namespace

std::optional<Float32Kernels> float32_conv_kernels() {
  if (best_processor() != Processor::avx512) return std::nullopt;
  return Float32Kernels{ConvLoops<Float32>::forward, ConvLoops<Float32>::backward};
}

}  // namespace lockstep
#else
namespace lockstep {

std::optional<Float32Kernels> float32_conv_kernels() { return std::nullopt; }

}  // namespace lockstep
#endif
