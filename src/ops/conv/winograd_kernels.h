// The loops of winograd_conv2d: convolutions of stride 1 with kernels of 3x3 or 5x5 by Winograd's method (S. Winograd,
// Arithmetic Complexity of Computations, 1980; A. Lavin and S. Gray, arXiv:1509.09308) with six points: 0, plus and
// minus 1/sqrt(2), plus and minus sqrt(2), and infinity (roots, for their powers stay near 1). A tile is what
// 6x6 values of the input make: 4x4 outputs of a 3x3 kernel with 36 products in place of 144, or 2x2 of a 5x5
// kernel with 36 in place of 100.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "ops/processor.h"

namespace lockstep {

constexpr int64_t kWinogradProducts = 36;
constexpr int64_t kWinogradChannels = 32;  ///< a multiple of it go in and out
constexpr int64_t kWinogradTiles = 8;      ///< a multiple of it is in a block

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
  /// Floats that a block needs besides: a row of zeros, a row of the input and of the output for all tiles across,
  /// slabs of six products of each tile, and half made outputs.
  int64_t zeros() const { return std::max(width * in, out_width * out); }
  int64_t in_band() const { return (tiles_across() * tile + 6 - tile) * in; }
  int64_t out_band() const { return tiles_across() * tile * out; }
  int64_t scratch() const {
    return zeros() + in_band() + out_band() + 6 * (block * (in + out + 2 * kGap) + 2 * kGap) + 6 * block * tile * out;
  }

  /// Slabs, and the rows of one, begin in different sets of the first cache.
  static constexpr int64_t kGap = 16;
};

struct WinogradKernels {
  /// weights: [kernel, kernel, out / 32, in, 32] → factors: [36, out / 32, in, 32].
  void (*factors)(int64_t in, int64_t out, const float* weights, float* factors);
  /// The transposed map: of_factors → of_weights.
  void (*of_weights)(int64_t in, int64_t out, const float* of_factors, float* of_weights);
  /// `scratch`: as many floats as the shape says, zeros before the first block.
  ///
  /// One block of tiles. images: [images, height, width, in]; bias: [out] or null → its part of out: [images,
  /// out_height, out_width, out].
  void (*forward)(const WinogradShape& shape, int64_t block, const float* images, const float* factors,
                  const float* bias, float* out, float* scratch);
  /// One block of tiles: adds to of_factors what `gradient`, shaped as out, makes of them.
  void (*backward)(const WinogradShape& shape, int64_t block, const float* images, const float* gradient,
                   float* of_factors, float* scratch);
  /// Adds values: [pixels, out], to of_bias: [out].
  void (*sum_pixels)(int64_t pixels, int64_t out, const float* values, float* of_bias);
};

/// kernel: 3 or 5. None where a processor has too few registers for them to be faster than LibTorch's.
std::optional<WinogradKernels> winograd_kernels(Processor processor, int64_t kernel);

}  // namespace lockstep
