// The loops of image_conv2d: stride 1, images of few channels, whose padded rows lie side by side.
#pragma once

#include <cstdint>
#include <optional>

#include "ops/processor.h"

namespace lockstep {

struct ConvShape {
  int64_t height, width;  ///< of the output
  int64_t kernel_height;  ///< rows of a window
  int64_t row_taps;       ///< values of a window's row: kernel width times channels
  int64_t channels;       ///< of the input
  int64_t padded_row;     ///< values of a row of the padded input
  int64_t out_channels;   ///< a multiple of kOutBlock
};

constexpr int64_t kOutBlock = 32;  ///< output channels that the loops take at once
/// Floats of an output that stay in the first cache while all taps of a window see them.
constexpr int64_t kCachedFloats = 6144;

struct ImageConvKernels {
  /// One image. padded: [height + kernel_height - 1, padded_row]; weights: [kernel_height, row_taps, out_channels];
  /// bias: [out_channels]; out: [height, width, out_channels].
  void (*forward)(const ConvShape& shape, const float* padded, const float* weights, const float* bias, float* out);
  /// One image: adds to of_weights and of_bias, shaped as above, what `gradient`, shaped as out, makes of them.
  void (*backward)(const ConvShape& shape, const float* padded, const float* gradient, float* of_weights,
                   float* of_bias);
};

/// None where a processor has too few registers for them to be faster than LibTorch's.
std::optional<ImageConvKernels> image_conv_kernels(Processor processor);

}  // namespace lockstep
