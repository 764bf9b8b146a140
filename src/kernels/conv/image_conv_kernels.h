// The loops of image_conv2d: stride 1, images of few channels, whose padded rows lie side by side.
#pragma once

#include <cstdint>
#include <optional>

namespace lockstep::kernels {

struct ConvShape {
  int64_t height, width;  ///< of the output
  int64_t kernel_height;  ///< rows of a window
  int64_t row_taps;       ///< values of a window's row: kernel width times channels
  int64_t channels;       ///< of the input
  int64_t padded_row;     ///< values of a row of the padded input
  int64_t out_channels;   ///< a multiple of kOutBlock
};

constexpr int64_t kOutBlock = 32;  ///< output channels that the loops take at once
/// Values of an output that stay in the first cache while all taps of a window see them.
constexpr int64_t kCachedValues = 6144;

/// What an image, its padding included, is convolved with and to, and what backward makes of it.
struct Float32Kernels {
  using Value = float;
  using Sight = float;  ///< what backward multiplies: values as they are

  /// Rows of an image. padded: [height + kernel_height - 1, padded_row]; weights: [kernel_height, row_taps,
  /// out_channels]; bias: [out_channels]; out: [height, width, out_channels].
  void (*forward)(const ConvShape& shape, const float* padded, const float* weights, const float* bias, float* out);
  /// Rows of an image: adds to of_weights and of_bias, shaped as above, what `gradient`, shaped as out, makes of them.
  void (*backward)(const ConvShape& shape, const float* padded, const float* gradient, float* of_weights,
                   float* of_bias);
};

/// The same for bfloat16, given as its bits, with sums of float32. Products come in pairs, added two at a time.
struct BFloat16Kernels {
  using Value = uint16_t;
  using Sight = uint32_t;  ///< two values: the first in the lower half

  /// padded: as above, and one value more; weights: [kernel_height, (row_taps + 1) / 2, out_channels] pairs of taps,
  /// the last with 0 where their number is odd (so the value that follows a window's row there must be finite).
  void (*forward)(const ConvShape& shape, const uint16_t* padded, const uint32_t* weights, const float* bias,
                  uint16_t* out);
  /// padded: what `see` made; gradient: [height, (width + 1) / 2, out_channels] pairs of pixels, the last with 0 where
  /// the width is odd.
  void (*backward)(const ConvShape& shape, const uint32_t* padded, const uint32_t* gradient, float* of_weights,
                   float* of_bias);
  /// Pairs each of `count` values with that of the pixel to its right, `channels` further.
  void (*see)(const uint16_t* padded, uint32_t* pairs, int64_t count, int64_t channels);
  /// The pairs of one row of `gradient`, from its values: [width, out_channels].
  void (*pair)(const uint16_t* gradient, uint32_t* pairs, int64_t width, int64_t out_channels);
};

/// None where a processor has too few registers for them to be faster than LibTorch's.
std::optional<Float32Kernels> float32_conv_kernels();

/// None where they would not be faster than LibTorch's.
std::optional<BFloat16Kernels> bfloat16_conv_kernels();

}  // namespace lockstep::kernels
