// The loops of winograd_conv2d: convolutions of stride 1 with kernels of 3x3 or 5x5 by Winograd's method (S. Winograd,
// Arithmetic Complexity of Computations, 1980; A. Lavin and S. Gray, arXiv:1509.09308) with six points: 0, plus and
// minus 1/sqrt(2), plus and minus sqrt(2), and infinity (roots, for their powers stay near 1). A tile is what
// 6x6 values of the input make: 4x4 outputs of a 3x3 kernel with 36 products in place of 144, or 2x2 of a 5x5
// kernel with 36 in place of 100.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <type_traits>

namespace lockstep::kernels {

constexpr int64_t kWinogradProducts = 36;
constexpr int64_t kWinogradChannels = 32;  ///< that a product takes at a time
constexpr int64_t kWinogradTiles = 8;      ///< a multiple of it is in a block

/// Channels with the zeros that are worked on besides.
constexpr int64_t winograd_padded(int64_t channels) {
  return (channels + kWinogradChannels - 1) / kWinogradChannels * kWinogradChannels;
}

struct WinogradShape {
  int64_t images;
  int64_t height, width;          ///< of the input
  int64_t out_height, out_width;  ///< of the output
  int64_t padding;                ///< rows and columns of zeros around the input
  int64_t in, out;                ///< channels
  int64_t tile;                   ///< rows and columns of the output in a tile
  int64_t block;                  ///< tiles that are worked on at a time

  int64_t tiles_down() const { return (out_height + tile - 1) / tile; }
  int64_t tiles_across() const { return (out_width + tile - 1) / tile; }
  int64_t tiles() const { return images * tiles_down() * tiles_across(); }
  int64_t blocks() const { return (tiles() + block - 1) / block; }
  // Floats that a block needs besides.

  /// a row of zeros,
  int64_t zeros() const { return std::max(width * winograd_padded(in), out_width * winograd_padded(out)); }
  /// a row of the input and of the output for all tiles across,
  int64_t in_band() const { return (tiles_across() * tile + 6 - tile) * winograd_padded(in); }
  int64_t out_band() const { return tiles_across() * tile * winograd_padded(out); }
  /// all of which are 0 before the first block, and are left so that they serve the next one,
  int64_t zeroed() const { return zeros() + in_band() + out_band(); }
  /// slabs of six products of each tile,
  int64_t slabs() const { return 6 * (block * (winograd_padded(in) + winograd_padded(out) + 2 * kGap) + 2 * kGap); }
  /// and, forward, half made outputs, or, backward, the values of a tile that waits for its second.
  int64_t forward_scratch() const { return zeroed() + slabs() + 6 * block * tile * winograd_padded(out); }
  int64_t backward_scratch() const {
    return zeroed() + slabs() + 6 * std::max(winograd_padded(in), winograd_padded(out));
  }

  /// Slabs, and the rows of one, begin in different sets of the first cache.
  static constexpr int64_t kGap = 16;
};

/// Value: float, or uint16_t for the bits of bfloat16; transformed values and kernels are rounded to it, and sums are
/// of float32. A Sight is what a product takes at a time: a Value, or two of bfloat16.
template <typename Value>
struct WinogradKernels {
  using Sight = std::conditional_t<sizeof(Value) == 2, uint32_t, float>;
  static constexpr int64_t kTogether = sizeof(Sight) / sizeof(Value);

  /// Block `block` of 32 channels that come out, of which there is a multiple. weights: [out, kernel, kernel, in] →
  /// factors: [36, out / 32, in / kTogether, 32], `in` padded.
  void (*factors)(int64_t in, int64_t out, int64_t block, const float* weights, Sight* factors);
  /// Those of the convolution that makes the images' gradient, with kernels turned around: block `block` of 32 channels
  /// that go in. → factors: [36, in / 32, out / kTogether, 32], `in` padded.
  void (*turned_factors)(int64_t in, int64_t out, int64_t block, const float* weights, Sight* factors);
  /// The map of `factors` transposed: of_factors: [36, out, in], `in` padded → of_weights: [out, kernel, kernel, in],
  /// of channel `channel` that comes out.
  void (*of_weights)(int64_t in, int64_t out, int64_t channel, const float* of_factors, float* of_weights);
  /// One block of tiles; scratch: forward_scratch() floats, of which the first zeroed() are 0 before the first block of
  /// several with one shape. images: [images, height, width, in]; bias: [out] or null → its part of out: [images,
  /// out_height, out_width, out].
  void (*forward)(const WinogradShape& shape, int64_t block, const Value* images, const Sight* factors,
                  const float* bias, Value* out, float* scratch);
  /// The same with backward_scratch(): puts into of_factors what `gradient`, shaped as out, makes of them, `added` to
  /// what is there.
  void (*backward)(const WinogradShape& shape, int64_t block, bool added, const Value* images, const Value* gradient,
                   float* of_factors, float* scratch);
  /// Adds values: [pixels, out], to of_bias: [out].
  void (*sum_pixels)(int64_t pixels, int64_t out, const Value* values, float* of_bias);
};

/// kernel: 3 or 5. None where a processor has too few registers for them to be faster than LibTorch's, or other ways
/// with bfloat16.
template <typename Value>
std::optional<WinogradKernels<Value>> winograd_kernels(int64_t kernel);
template <>
std::optional<WinogradKernels<float>> winograd_kernels(int64_t kernel);
template <>
std::optional<WinogradKernels<uint16_t>> winograd_kernels(int64_t kernel);

}  // namespace lockstep::kernels
