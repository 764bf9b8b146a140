#include "kernels/conv/image_conv_kernels.h"
#include "kernels/processor.h"

#ifdef __x86_64__
#define LOCKSTEP_TARGET LOCKSTEP_FOR_AVX512_BF16
#include "kernels/conv/image_conv_loops.h"
#include "kernels/conv/products_bfloat16.h"

namespace lockstep::kernels {
namespace {

struct BFloat16 : BFloat16Products {
  static constexpr int64_t kTogether = 2;
  static constexpr uint32_t kOne = 0x3f803f80;

  LOCKSTEP_TARGET LOCKSTEP_INLINE void store(const __m512& sum, uint16_t* to) {
    const __m256bh rounded = _mm512_cvtneps_pbh(sum);
    std::memcpy(to, &rounded, sizeof rounded);
  }
};

// These two g++ turns into vector code.
LOCKSTEP_TARGET void see(const uint16_t* padded, uint32_t* __restrict pairs, int64_t count, int64_t channels) {
  for (int64_t i = 0; i < count; ++i) pairs[i] = padded[i] | static_cast<uint32_t>(padded[i + channels]) << 16;
}

LOCKSTEP_TARGET void pair(const uint16_t* gradient, uint32_t* __restrict pairs, int64_t width, int64_t out_channels) {
  for (int64_t x = 0; x + 1 < width; x += 2, pairs += out_channels, gradient += 2 * out_channels) {
    for (int64_t c = 0; c < out_channels; ++c) {
      pairs[c] = gradient[c] | static_cast<uint32_t>(gradient[out_channels + c]) << 16;
    }
  }
  if (width % 2 != 0) std::copy_n(gradient, out_channels, pairs);
}

}  // namespace

std::optional<BFloat16Kernels> bfloat16_conv_kernels() {
  if (!has_fast_bfloat16_vectors()) return std::nullopt;
  return BFloat16Kernels{ConvLoops<BFloat16>::forward, ConvLoops<BFloat16>::backward, see, pair};
}

}  // namespace lockstep::kernels
#else
namespace lockstep::kernels {

std::optional<BFloat16Kernels> bfloat16_conv_kernels() { return std::nullopt; }

}  // namespace lockstep::kernels
#endif
