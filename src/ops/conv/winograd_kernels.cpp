#include "ops/conv/winograd_kernels.h"

#include <algorithm>
#include <array>
#include <utility>

#include "ops/vectors.h"

namespace lockstep {
namespace {

constexpr int64_t kPoints = 6;
constexpr int64_t kGap = WinogradShape::kGap;

template <int64_t kLanes, int64_t kKernel>
struct Loops {
  static constexpr int64_t kTile = kPoints - kKernel + 1;
  static constexpr int64_t kParts = kWinogradChannels / kLanes;
  static constexpr int64_t kRows = kWinogradTiles;  // of a product that the registers hold

  using Floats = typename Vectors<kLanes>::Floats;

  LOCKSTEP_INLINE void load(const float* from, Floats& to) { std::memcpy(&to, from, sizeof to); }
  LOCKSTEP_INLINE void store(const Floats& from, float* to) { std::memcpy(to, &from, sizeof from); }

  // Powers of the points 1/sqrt(2) and sqrt(2).
  static constexpr float kNear = 0.70710678f, kFar = 1.41421356f;
  static constexpr std::array<float, 5> kNearPowers{1, kNear, 1.0f / 2, kNear / 2, 1.0f / 4};
  static constexpr std::array<float, 5> kFarPowers{1, kFar, 2, 2 * kFar, 4};

  // The maps along one side of a tile.

  // One of the six values that from_input makes.
  template <int64_t kPoint>
  LOCKSTEP_INLINE void from_input_at(const Floats* in, Floats& to) {
    if constexpr (kPoint == 0) to = in[0] - 2.5f * in[2] + in[4];
    if constexpr (kPoint == 1) to = in[4] - 2 * in[2] + kNear * (in[3] - 2 * in[1]);
    if constexpr (kPoint == 2) to = in[4] - 2 * in[2] - kNear * (in[3] - 2 * in[1]);
    if constexpr (kPoint == 3) to = in[4] - in[2] / 2 + kFar * (in[3] - in[1] / 2);
    if constexpr (kPoint == 4) to = in[4] - in[2] / 2 - kFar * (in[3] - in[1] / 2);
    if constexpr (kPoint == 5) to = in[1] - 2.5f * in[3] + in[5];
  }

  template <int64_t... kAll>
  LOCKSTEP_INLINE void from_input_all(const Floats* in, Floats* to, std::integer_sequence<int64_t, kAll...>) {
    (from_input_at<kAll>(in, to[kAll]), ...);
  }
  LOCKSTEP_INLINE void from_input(const Floats* in, Floats* to) {
    from_input_all(in, to, std::make_integer_sequence<int64_t, kPoints>());
  }

  // One of the six values that from_output makes.
  template <int64_t kPoint>
  LOCKSTEP_INLINE void from_output_at(const Floats* in, Floats& to) {
    if constexpr (kPoint == 0) to = in[0];
    if constexpr (kPoint == 5) to = in[kTile - 1];
    if constexpr (kPoint > 0 && kPoint < 5) {
      constexpr auto& kPowers = kPoint < 3 ? kNearPowers : kFarPowers;
      to = in[0];
#pragma GCC unroll 8
      for (int64_t k = 1; k < kTile; ++k) to += (k % 2 == 1 && kPoint % 2 == 0 ? -kPowers[k] : kPowers[k]) * in[k];
    }
  }

  // From a value at each of the points to kCount sums of the points' powers times their values; `near` and `far` are
  // factors of the values.
  template <int64_t kCount>
  LOCKSTEP_INLINE void to_powers(const Floats* in, float near, float far, Floats* to) {
    const Floats even_near = near * (in[1] + in[2]), odd_near = near * (in[1] - in[2]);
    const Floats even_far = far * (in[3] + in[4]), odd_far = far * (in[3] - in[4]);
#pragma GCC unroll 8
    for (int64_t k = 0; k < kCount; ++k) {
      to[k] = kNearPowers[k] * (k % 2 == 0 ? even_near : odd_near) + kFarPowers[k] * (k % 2 == 0 ? even_far : odd_far);
    }
    to[0] += in[0];
    to[kCount - 1] += in[5];
  }

  // The transpose: from kCount coefficients to the polynomial's values at the points.
  template <int64_t kCount>
  LOCKSTEP_INLINE void from_powers(const Floats* in, float near, float far, Floats* to) {
    Floats even_near = in[0], odd_near = kNear * in[1], even_far = in[0], odd_far = kFar * in[1];
#pragma GCC unroll 8
    for (int64_t k = 2; k < kCount; ++k) {
      (k % 2 == 0 ? even_near : odd_near) += kNearPowers[k] * in[k];
      (k % 2 == 0 ? even_far : odd_far) += kFarPowers[k] * in[k];
    }
    to[0] = in[0];
    to[1] = near * (even_near + odd_near);
    to[2] = near * (even_near - odd_near);
    to[3] = far * (even_far + odd_far);
    to[4] = far * (even_far - odd_far);
    to[5] = in[kCount - 1];
  }

  // A map and its transpose for outputs, and for kernels, where the points' other factors are.
  LOCKSTEP_INLINE void to_output(const Floats* in, Floats* to) { to_powers<kTile>(in, 1, 1, to); }
  LOCKSTEP_INLINE void from_output(const Floats* in, Floats* to) { from_powers<kTile>(in, 1, 1, to); }
  LOCKSTEP_INLINE void from_kernel(const Floats* in, Floats* to) { from_powers<kKernel>(in, -2.0f / 3, 1.0f / 6, to); }
  LOCKSTEP_INLINE void to_kernel(const Floats* in, Floats* to) { to_powers<kKernel>(in, -2.0f / 3, 1.0f / 6, to); }

  // A map along both sides of `count` squares at once: [kFrom, kFrom, count] → [kTo, kTo, count].
  template <int64_t kFrom, int64_t kTo, typename Map>
  LOCKSTEP_INLINE void both_sides(int64_t count, const float* from, float* to, const Map& map) {
    for (int64_t i = 0; i < count; i += kLanes) {
      Floats half[kFrom][kTo];
#pragma GCC unroll 8
      for (int64_t column = 0; column < kFrom; ++column) {
        Floats in[kFrom];
#pragma GCC unroll 8
        for (int64_t row = 0; row < kFrom; ++row) load(from + (row * kFrom + column) * count + i, in[row]);
        map(in, half[column]);
      }
#pragma GCC unroll 8
      for (int64_t row = 0; row < kTo; ++row) {
        Floats in[kFrom], out[kTo];
#pragma GCC unroll 8
        for (int64_t column = 0; column < kFrom; ++column) in[column] = half[column][row];
        map(in, out);
#pragma GCC unroll 8
        for (int64_t column = 0; column < kTo; ++column) store(out[column], to + (row * kTo + column) * count + i);
      }
    }
  }

  LOCKSTEP_INLINE void factors(int64_t in, int64_t out, const float* weights, float* to) {
    both_sides<kKernel, kPoints>(
        in * out, weights, to, [](const Floats* a, Floats* b) __attribute__((always_inline)) { from_kernel(a, b); });
  }

  LOCKSTEP_INLINE void of_weights(int64_t in, int64_t out, const float* of_factors, float* to) {
    both_sides<kPoints, kKernel>(
        in * out, of_factors, to, [](const Floats* a, Floats* b) __attribute__((always_inline)) { to_kernel(a, b); });
  }

  // Walks over tiles.
  struct Place {
    int64_t image, row, column;  // of the first output

    LOCKSTEP_INLINE Place of(const WinogradShape& s, int64_t tile) {
      const int64_t across = s.tiles_across(), in_image = s.tiles_down() * across;
      const int64_t rest = tile % in_image;
      return {tile / in_image, rest / across * kTile, rest % across * kTile};
    }
    [[gnu::always_inline]] inline void next(const WinogradShape& s) {
      if ((column += kTile) < s.out_width) return;
      column = 0;
      if ((row += kTile) < s.out_height) return;
      row = 0;
      ++image;
    }
  };

  // Rows of images, mapped downwards to one point: what all tiles of a row of tiles share.
  template <int64_t kSide>
  struct Band {
    const float* from;  // [images, height, width, channels]
    int64_t height, width, channels;
    int64_t left;   // columns of zeros before the first
    float* mapped;  // [columns, channels], zeros where `from` has no columns
    const float* zeros;

    // map: kSide values to one.
    template <typename Map>
    [[gnu::always_inline]] inline void fill(int64_t image, int64_t top, const Map& map) const {
      const int64_t count = width * channels;
      const float* rows[kSide];
      for (int64_t y = 0; y < kSide; ++y) {
        const bool inside = top + y >= 0 && top + y < height;
        rows[y] = inside ? from + (image * height + top + y) * count : zeros;
      }
      for (int64_t i = 0; i < count; i += kLanes) {
        Floats in[kSide], to;
#pragma GCC unroll 8
        for (int64_t y = 0; y < kSide; ++y) load(rows[y] + i, in[y]);
        map(in, to);
        store(to, mapped + left * channels + i);
      }
    }
  };

  // One point's row of the maps of `tiles` tiles from `place` on: [6, slab], a slab being [tiles, channels and a gap].
  template <int64_t kSide, typename Down, typename Across>
  LOCKSTEP_INLINE void slabs_of(const WinogradShape& s, Place& place, int64_t tiles, const Band<kSide>& band,
                                int64_t padding, bool& filled, const Down& down, const Across& across, int64_t slab,
                                float* slabs) {
    for (int64_t t = 0; t < tiles; ++t) {
      if (!filled) band.fill(place.image, place.row - padding, down);
      const float* const window = band.mapped + place.column * band.channels;
      for (int64_t c = 0; c < band.channels; c += kLanes) {
        Floats in[kSide], to[kPoints];
#pragma GCC unroll 8
        for (int64_t x = 0; x < kSide; ++x) load(window + x * band.channels + c, in[x]);
        across(in, to);
#pragma GCC unroll 8
        for (int64_t k = 0; k < kPoints; ++k) store(to[k], slabs + k * slab + t * (band.channels + kGap) + c);
      }
      place.next(s);
      filled = place.column != 0;
    }
  }

  // A product of 8 rows and 32 columns, [8, depth] times [depth, 32] → [8, 32], put there or added to what is there. On
  // the left, rows lie row_step apart and the values of one `step`; on the right and in `to`, rows lie so far apart.
  template <bool kAdded>
  LOCKSTEP_INLINE void product(int64_t depth, const float* left, int64_t row_step, int64_t step, const float* right,
                               int64_t right_step, float* to, int64_t to_step) {
    Floats sum[kRows][kParts] = {};
#pragma GCC unroll 16
    for (int64_t row = 0; kAdded && row < kRows; ++row) {
#pragma GCC unroll 8
      for (int64_t part = 0; part < kParts; ++part) load(to + row * to_step + part * kLanes, sum[row][part]);
    }
    for (int64_t d = 0; d < depth; ++d) {
      Floats factor[kParts];
#pragma GCC unroll 8
      for (int64_t part = 0; part < kParts; ++part) load(right + d * right_step + part * kLanes, factor[part]);
#pragma GCC unroll 16
      for (int64_t row = 0; row < kRows; ++row) {
        const float value = left[row * row_step + d * step];
#pragma GCC unroll 8
        for (int64_t part = 0; part < kParts; ++part) sum[row][part] += factor[part] * value;
      }
    }
#pragma GCC unroll 16
    for (int64_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
      for (int64_t part = 0; part < kParts; ++part) store(sum[row][part], to + row * to_step + part * kLanes);
    }
  }

  // What a call works in.
  struct Desk {
    float *zeros, *in_band, *out_band, *in_slabs, *out_slabs, *half;
    int64_t in_slab, out_slab;

    LOCKSTEP_INLINE Desk on(const WinogradShape& s, float* scratch) {
      Desk desk;
      desk.in_slab = s.block * (s.in + kGap) + kGap;
      desk.out_slab = s.block * (s.out + kGap) + kGap;
      desk.zeros = scratch;
      desk.in_band = desk.zeros + s.zeros();
      desk.out_band = desk.in_band + s.in_band();
      desk.in_slabs = desk.out_band + s.out_band();
      desk.out_slabs = desk.in_slabs + kPoints * desk.in_slab;
      desk.half = desk.out_slabs + kPoints * desk.out_slab;
      return desk;
    }
  };

  template <int64_t kPoint>
  LOCKSTEP_INLINE void forward_at(const WinogradShape& s, int64_t first, int64_t tiles, const float* images,
                                  const float* factors, const Desk& desk) {
    const Band<kPoints> band{images, s.height, s.width, s.in, s.padding, desk.in_band, desk.zeros};
    const int64_t group = std::min(s.block, 3 * kRows);  // with six factors each, what stays in the first cache
    const int64_t in_row = s.in + kGap, out_row = s.out + kGap;
    const int64_t in_slab = group * in_row + kGap, out_slab = group * out_row + kGap;
    Place place = Place::of(s, first);
    bool filled = false;
    for (int64_t t = 0; t < tiles; t += group) {
      slabs_of<kPoints>(
          s, place, std::min(group, tiles - t), band, s.padding, filled,
          [](const Floats* a, Floats& b) __attribute__((always_inline)) { from_input_at<kPoint>(a, b); },
          [](const Floats* a, Floats* b) __attribute__((always_inline)) { from_input(a, b); }, in_slab, desk.in_slabs);
      for (int64_t k = 0; k < kPoints; ++k) {
        for (int64_t c = 0; c < s.out; c += kWinogradChannels) {
          for (int64_t i = 0; i < std::min(group, tiles - t); i += kRows) {
            product<false>(s.in, desk.in_slabs + k * in_slab + i * in_row, in_row, 1,
                           factors + ((kPoint * kPoints + k) * s.out + c) * s.in, kWinogradChannels,
                           desk.out_slabs + k * out_slab + i * out_row + c, out_row);
          }
        }
      }
      for (int64_t i = 0; i < std::min(group, tiles - t); ++i) {
        for (int64_t c = 0; c < s.out; c += kLanes) {
          Floats in[kPoints], to[kTile];
#pragma GCC unroll 8
          for (int64_t k = 0; k < kPoints; ++k) load(desk.out_slabs + k * out_slab + i * out_row + c, in[k]);
          to_output(in, to);
#pragma GCC unroll 8
          for (int64_t x = 0; x < kTile; ++x) {
            store(to[x], desk.half + ((kPoint * s.block + t + i) * kTile + x) * s.out + c);
          }
        }
      }
    }
  }

  LOCKSTEP_INLINE void forward(const WinogradShape& s, int64_t block, const float* images, const float* factors,
                               const float* bias, float* out, float* scratch) {
    const int64_t first = block * s.block, tiles = std::min(s.block, s.tiles() - first);
    const Desk desk = Desk::on(s, scratch);
    forward_at<0>(s, first, tiles, images, factors, desk);
    forward_at<1>(s, first, tiles, images, factors, desk);
    forward_at<2>(s, first, tiles, images, factors, desk);
    forward_at<3>(s, first, tiles, images, factors, desk);
    forward_at<4>(s, first, tiles, images, factors, desk);
    forward_at<5>(s, first, tiles, images, factors, desk);

    const float* const added = bias != nullptr ? bias : desk.zeros;
    Place place = Place::of(s, first);
    for (int64_t t = 0; t < tiles; ++t, place.next(s)) {
      const int64_t rows = s.out_height - place.row, columns = s.out_width - place.column;
      float* const corner = out + ((place.image * s.out_height + place.row) * s.out_width + place.column) * s.out;
      for (int64_t x = 0; x < std::min(kTile, columns); ++x) {
        for (int64_t c = 0; c < s.out; c += kLanes) {
          Floats in[kPoints], to[kTile], plus;
          load(added + c, plus);
#pragma GCC unroll 8
          for (int64_t k = 0; k < kPoints; ++k) load(desk.half + ((k * s.block + t) * kTile + x) * s.out + c, in[k]);
          to_output(in, to);
#pragma GCC unroll 8
          for (int64_t y = 0; y < kTile; ++y) {
            if (y < rows) store(to[y] + plus, corner + (y * s.out_width + x) * s.out + c);
          }
        }
      }
    }
  }

  template <int64_t kPoint>
  LOCKSTEP_INLINE void backward_at(const WinogradShape& s, int64_t first, int64_t tiles, const float* images,
                                   const float* gradient, float* of_factors, const Desk& desk) {
    const Band<kPoints> in_band{images, s.height, s.width, s.in, s.padding, desk.in_band, desk.zeros};
    const Band<kTile> out_band{gradient, s.out_height, s.out_width, s.out, 0, desk.out_band, desk.zeros};
    bool filled = false;
    Place place = Place::of(s, first);
    slabs_of<kPoints>(
        s, place, tiles, in_band, s.padding, filled,
        [](const Floats* a, Floats& b) __attribute__((always_inline)) { from_input_at<kPoint>(a, b); },
        [](const Floats* a, Floats* b) __attribute__((always_inline)) { from_input(a, b); }, desk.in_slab,
        desk.in_slabs);
    filled = false;
    place = Place::of(s, first);
    slabs_of<kTile>(
        s, place, tiles, out_band, 0, filled,
        [](const Floats* a, Floats& b) __attribute__((always_inline)) { from_output_at<kPoint>(a, b); },
        [](const Floats* a, Floats* b) __attribute__((always_inline)) { from_output(a, b); }, desk.out_slab,
        desk.out_slabs);
    for (int64_t k = 0; k < kPoints; ++k) {
      for (int64_t row = 0; row < s.in; row += kRows) {
        for (int64_t c = 0; c < s.out; c += kWinogradChannels) {
          product<true>(tiles, desk.in_slabs + k * desk.in_slab + row, 1, s.in + kGap,
                        desk.out_slabs + k * desk.out_slab + c, s.out + kGap,
                        of_factors + ((kPoint * kPoints + k) * s.out + c) * s.in + row * kWinogradChannels,
                        kWinogradChannels);
        }
      }
    }
  }

  LOCKSTEP_INLINE void backward(const WinogradShape& s, int64_t block, const float* images, const float* gradient,
                                float* of_factors, float* scratch) {
    const int64_t first = block * s.block, tiles = std::min(s.block, s.tiles() - first);
    const Desk desk = Desk::on(s, scratch);
    backward_at<0>(s, first, tiles, images, gradient, of_factors, desk);
    backward_at<1>(s, first, tiles, images, gradient, of_factors, desk);
    backward_at<2>(s, first, tiles, images, gradient, of_factors, desk);
    backward_at<3>(s, first, tiles, images, gradient, of_factors, desk);
    backward_at<4>(s, first, tiles, images, gradient, of_factors, desk);
    backward_at<5>(s, first, tiles, images, gradient, of_factors, desk);
  }

  LOCKSTEP_INLINE void sum_pixels(int64_t pixels, int64_t out, const float* values, float* to) {
    for (int64_t c = 0; c < out; c += kWinogradChannels) {
      Floats sum[kParts];
#pragma GCC unroll 8
      for (int64_t part = 0; part < kParts; ++part) load(to + c + part * kLanes, sum[part]);
      for (int64_t i = 0; i < pixels; ++i) {
#pragma GCC unroll 8
        for (int64_t part = 0; part < kParts; ++part) {
          Floats value;
          load(values + i * out + c + part * kLanes, value);
          sum[part] += value;
        }
      }
#pragma GCC unroll 8
      for (int64_t part = 0; part < kParts; ++part) store(sum[part], to + c + part * kLanes);
    }
  }
};

#ifdef __x86_64__
template <int64_t kKernel>
struct ForAvx512 {
  using L = Loops<16, kKernel>;
  LOCKSTEP_FOR_AVX512 static void factors(int64_t in, int64_t out, const float* weights, float* to) {
    L::factors(in, out, weights, to);
  }
  LOCKSTEP_FOR_AVX512 static void of_weights(int64_t in, int64_t out, const float* of_factors, float* to) {
    L::of_weights(in, out, of_factors, to);
  }
  LOCKSTEP_FOR_AVX512 static void forward(const WinogradShape& shape, int64_t block, const float* images,
                                          const float* factors, const float* bias, float* out, float* scratch) {
    L::forward(shape, block, images, factors, bias, out, scratch);
  }
  LOCKSTEP_FOR_AVX512 static void backward(const WinogradShape& shape, int64_t block, const float* images,
                                           const float* gradient, float* of_factors, float* scratch) {
    L::backward(shape, block, images, gradient, of_factors, scratch);
  }
  LOCKSTEP_FOR_AVX512 static void sum_pixels(int64_t pixels, int64_t out, const float* values, float* to) {
    L::sum_pixels(pixels, out, values, to);
  }
  static constexpr WinogradKernels all{factors, of_weights, forward, backward, sum_pixels};
};
#endif

}  // namespace

std::optional<WinogradKernels> winograd_kernels(Processor processor, int64_t kernel) {
#ifdef __x86_64__
  if (processor == Processor::avx512 && kernel == 3) return ForAvx512<3>::all;
  if (processor == Processor::avx512 && kernel == 5) return ForAvx512<5>::all;
#endif
  (void)processor;
  (void)kernel;
  return std::nullopt;
}

}  // namespace lockstep
