// The loops that make the gradient of a convolution's weights where max_pool2x2 follows: of each window of four pixels
// only one has a gradient, another one for each channel, so three of four products are left out. What the pixels of a
// window see at one place of the kernel lies side by side in a table, from which each channel takes its winner's.
#pragma once

#include <cstdint>
#include <optional>

namespace lockstep::kernels {

/// Some rows of windows of one image.
struct PooledShape {
  int64_t windows_down, windows_across;
  int64_t kernel_height;  ///< rows of a window of the convolution
  int64_t row_taps;       ///< values of such a row: kernel width times channels
  int64_t channels;       ///< of the input
  int64_t padded_row;     ///< values of a row of the padded input
  int64_t out_channels;   ///< a multiple of kPooledBlock

  int64_t steps(int64_t windows) const { return (windows_across + windows - 1) / windows; }
  /// Places of a row that have a table, where a step takes so many windows.
  int64_t tables_across(int64_t windows) const { return ((steps(windows) - 1) * windows * 2) * channels + row_taps; }
  int64_t table_rows() const { return 2 * (windows_down - 1) + kernel_height; }
};

constexpr int64_t kPooledBlock = 32;  ///< output channels that the loops take at once
constexpr int64_t kTableBytes = 16;   ///< of the four values of a window (float32), or of two windows (bfloat16)

/// Value: float, or uint16_t for bfloat16's bits. All sums are of float32.
template <typename Value>
struct PooledGradientKernels {
  static constexpr int64_t kTable = kTableBytes / sizeof(Value);  ///< values of a table
  static constexpr int64_t kWindows = kTable / 4;                 ///< that a step takes

  /// padded: [table_rows() + 1, padded_row], with room in a row for what its last table sees → [table_rows(),
  /// tables_across(kWindows), kTable].
  void (*tables)(const PooledShape& shape, const Value* padded, Value* tables);
  /// gradient, winners (0 to 3): [windows_down, windows_across, out_channels] → [out_channels / 32, windows_down,
  /// steps, 2, 32]: the gradients of a step's windows, and the places of its winners.
  void (*choices)(const PooledShape& shape, const Value* gradient, const uint8_t* winners, uint32_t* choices);
  /// Adds to of_weights: [kernel_height, row_taps, out_channels].
  void (*add_products)(const PooledShape& shape, const Value* tables, const uint32_t* choices, float* of_weights);
  /// Adds to of_bias: [out_channels].
  void (*add_gradients)(const PooledShape& shape, const Value* gradient, float* of_bias);
};

/// None where they would not be faster than LibTorch's.
template <typename Value>
std::optional<PooledGradientKernels<Value>> pooled_gradient_kernels();

}  // namespace lockstep::kernels
