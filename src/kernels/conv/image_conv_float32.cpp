#include "kernels/conv/image_conv_kernels.h"
#include "kernels/processor.h"

#ifdef __x86_64__
#define LOCKSTEP_TARGET LOCKSTEP_FOR_AVX512
#include "kernels/conv/image_conv_loops.h"
#include "kernels/conv/products_float32.h"

namespace lockstep::kernels {
namespace {

struct Float32 : Float32Products {
  static constexpr int64_t kTogether = 1;
  static constexpr float kOne = 1;

  LOCKSTEP_TARGET LOCKSTEP_INLINE void store(const __m512& sum, float* to) { _mm512_storeu_ps(to, sum); }
};

}  // namespace

std::optional<Float32Kernels> float32_conv_kernels() {
  if (best_processor() != Processor::avx512) return std::nullopt;
  return Float32Kernels{ConvLoops<Float32>::forward, ConvLoops<Float32>::backward};
}

}  // namespace lockstep::kernels
#else
namespace lockstep::kernels {

std::optional<Float32Kernels> float32_conv_kernels() { return std::nullopt; }

}  // namespace lockstep::kernels
#endif
