// For the files of these loops only, each of which says in LOCKSTEP_TARGET for which processor they are compiled, and
// in Numbers what of, besides the products of products_*.h:
//   Value                        as in WinogradKernels
//   load(values, mask, floats)   sixteen side by side or, where the mask has no bit, 0
//   store(floats, mask, values)  rounded, where the mask has a bit
//   see(first, second, sights)   sixteen Sights of a first value and, of bfloat16, a second
#include <immintrin.h>

#include <algorithm>

#include "kernels/conv/winograd_factors.h"
#include "kernels/conv/winograd_kernels.h"
#include "kernels/conv/winograd_maps.h"
#include "kernels/processor.h"
#include "kernels/vectors.h"

namespace lockstep::kernels {
namespace {

template <typename Numbers, int64_t kKernel>
struct WinogradLoops {
  using Maps = WinogradMaps<kKernel>;
  using Factors = WinogradFactors<Numbers, kKernel>;
  using Value = typename Numbers::Value;
  using Kernels = WinogradKernels<Value>;
  using Sight = typename Kernels::Sight;
  using Register = typename Numbers::Register;

  static constexpr int64_t kTogether = Kernels::kTogether;
  static constexpr int64_t kLanes = kWinogradLanes;
  static constexpr int64_t kParts = kWinogradChannels / kLanes;
  static constexpr int64_t kRows = kWinogradTiles;  // of a product that the registers hold
  static constexpr int64_t kPoints = Maps::kPoints;
  static constexpr int64_t kTile = Maps::kTile;
  static constexpr int64_t kGap = WinogradShape::kGap;

  // --- Walks over tiles

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
    const Value* from;  // [images, height, width, channels]
    int64_t height, width, channels;
    int64_t padding;
    float* mapped;  // [columns, padded channels], zeros where `from` has no columns
    const float* zeros;

    // Down: kSide values to one.
    template <typename Down>
    LOCKSTEP_TARGET LOCKSTEP_INLINE void fill(const Band& band, int64_t image, int64_t row) {
      const int64_t count = band.width * band.channels, padded = winograd_padded(band.channels);
      const int64_t top = row - band.padding;
      const Value* rows[kSide];
      for (int64_t y = 0; y < kSide; ++y) {
        const bool inside = top + y >= 0 && top + y < band.height;
        rows[y] = inside ? band.from + (image * band.height + top + y) * count
                         : static_cast<const Value*>(static_cast<const void*>(band.zeros));
      }
      for (int64_t x = 0; x < band.width; ++x) {
        for (int64_t c = 0; c < padded; c += kLanes) {
          const __mmask16 mask = winograd_mask(band.channels - c);
          __m512 in[kSide], to;
#pragma GCC unroll 8
          for (int64_t y = 0; y < kSide; ++y) Numbers::load(rows[y] + x * band.channels + c, mask, in[y]);
          Down::map(in, to);
          _mm512_storeu_ps(band.mapped + (band.padding + x) * padded + c, to);
        }
      }
    }
  };

  // What a call works in.
  struct Desk {
    float *zeros, *in_band, *out_band, *slabs;

    LOCKSTEP_INLINE Desk on(const WinogradShape& s, float* scratch) {
      float* const in_band = scratch + s.zeros();
      float* const out_band = in_band + s.in_band();
      return {scratch, in_band, out_band, out_band + s.out_band()};
    }
  };

  // One point's row of the maps of a tile: Across makes them of kSide columns of the band, and put.take(k, channel,
  // floats) takes them.
  template <typename Down, typename Across, int64_t kSide, typename Put>
  LOCKSTEP_TARGET LOCKSTEP_INLINE void map_tile(const Band<kSide>& band, const Place& place, bool& filled, Put& put) {
    if (!filled) Band<kSide>::template fill<Down>(band, place.image, place.row);
    const int64_t channels = winograd_padded(band.channels);
    const float* const window = band.mapped + place.column * channels;
    for (int64_t c = 0; c < channels; c += kLanes) {
      __m512 in[kSide], to[kPoints];
#pragma GCC unroll 8
      for (int64_t x = 0; x < kSide; ++x) in[x] = _mm512_loadu_ps(window + x * channels + c);
      Across::map(in, to);
#pragma GCC unroll 8
      for (int64_t k = 0; k < kPoints; ++k) put.take(k, c, to[k]);
    }
  }

  // A product of 8 rows and 32 columns, [8, depth] times [depth, 32] → [8, 32], put there or `added` to what is there.
  // On the left, rows lie row_step apart and the sights of one `step`; on the right and in `to`, rows lie so far apart.
  LOCKSTEP_TARGET LOCKSTEP_INLINE void product(bool added, int64_t depth, const Sight* left, int64_t row_step,
                                               int64_t step, const Sight* right, int64_t right_step, float* to,
                                               int64_t to_step) {
    __m512 sum[kRows][kParts];
#pragma GCC unroll 16
    for (int64_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
      for (int64_t part = 0; part < kParts; ++part) {
        sum[row][part] = added ? _mm512_loadu_ps(to + row * to_step + part * kLanes) : _mm512_setzero_ps();
      }
    }
    for (int64_t d = 0; d < depth; ++d) {
      Register factor[kParts];
#pragma GCC unroll 8
      for (int64_t part = 0; part < kParts; ++part) Numbers::load(right + d * right_step + part * kLanes, factor[part]);
#pragma GCC unroll 16
      for (int64_t row = 0; row < kRows; ++row) {
        Register value;
        Numbers::spread(left + row * row_step + d * step, value);
#pragma GCC unroll 8
        for (int64_t part = 0; part < kParts; ++part) Numbers::add(sum[row][part], factor[part], value);
      }
    }
#pragma GCC unroll 16
    for (int64_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
      for (int64_t part = 0; part < kParts; ++part) {
        _mm512_storeu_ps(to + row * to_step + part * kLanes, sum[row][part]);
      }
    }
  }

  // --- Forward

  static constexpr int64_t kGroup = 3 * kRows;  // tiles: with six factors each, what stays in the first cache

  struct ByTile {
    Sight* slabs;  // [6, slab], a slab being [tiles, channels / kTogether and a gap]
    int64_t slab, row;
    int64_t tile;

    LOCKSTEP_TARGET [[gnu::always_inline]] inline void take(int64_t k, int64_t channel, const __m512& floats) {
      Numbers::store(floats, 0xffff, static_cast<Value*>(static_cast<void*>(slabs + k * slab + tile * row)) + channel);
    }
  };

  template <int64_t kPoint>
  LOCKSTEP_TARGET LOCKSTEP_INLINE void forward_at(const WinogradShape& s, int64_t first, int64_t tiles,
                                                  const Value* images, const Sight* factors, const Desk& desk,
                                                  float* half) {
    const Band<kPoints> band{images, s.height, s.width, s.in, s.padding, desk.in_band, desk.zeros};
    const int64_t group = std::min(s.block, kGroup);
    const int64_t in = winograd_padded(s.in) / kTogether, out = winograd_padded(s.out);
    const int64_t in_row = in + kGap, out_row = out + kGap;
    const int64_t in_slab = group * in_row + kGap, out_slab = group * out_row + kGap;
    auto* const in_slabs = static_cast<Sight*>(static_cast<void*>(desk.slabs));
    float* const out_slabs = desk.slabs + kPoints * in_slab;
    Place place = Place::of(s, first);
    bool filled = false;
    for (int64_t t = 0; t < tiles; t += group) {
      const int64_t here = std::min(group, tiles - t);
      ByTile put{in_slabs, in_slab, in_row, 0};
      for (; put.tile < here; ++put.tile) {
        map_tile<typename Maps::template FromInputAt<kPoint>, typename Maps::FromInput>(band, place, filled, put);
        place.next(s);
        filled = place.column != 0;
      }
      for (int64_t k = 0; k < kPoints; ++k) {
        for (int64_t c = 0; c < out; c += kWinogradChannels) {
          for (int64_t i = 0; i < here; i += kRows) {
            product(false, in, in_slabs + k * in_slab + i * in_row, in_row, 1,
                    factors + ((kPoint * kPoints + k) * out + c) * in, kWinogradChannels,
                    out_slabs + k * out_slab + i * out_row + c, out_row);
          }
        }
      }
      for (int64_t i = 0; i < here; ++i) {
        for (int64_t c = 0; c < out; c += kLanes) {
          __m512 made[kPoints], to[kTile];
#pragma GCC unroll 8
          for (int64_t k = 0; k < kPoints; ++k) made[k] = _mm512_loadu_ps(out_slabs + k * out_slab + i * out_row + c);
          Maps::to_output(made, to);
#pragma GCC unroll 8
          for (int64_t x = 0; x < kTile; ++x) {
            _mm512_storeu_ps(half + ((kPoint * s.block + t + i) * kTile + x) * out + c, to[x]);
          }
        }
      }
    }
  }

  LOCKSTEP_TARGET static void forward(const WinogradShape& s, int64_t block, const Value* images, const Sight* factors,
                                      const float* bias, Value* out, float* scratch) {
    const int64_t first = block * s.block, tiles = std::min(s.block, s.tiles() - first);
    const Desk desk = Desk::on(s, scratch);
    float* const half = desk.slabs + s.slabs();
    forward_at<0>(s, first, tiles, images, factors, desk, half);
    forward_at<1>(s, first, tiles, images, factors, desk, half);
    forward_at<2>(s, first, tiles, images, factors, desk, half);
    forward_at<3>(s, first, tiles, images, factors, desk, half);
    forward_at<4>(s, first, tiles, images, factors, desk, half);
    forward_at<5>(s, first, tiles, images, factors, desk, half);

    const float* const added = bias != nullptr ? bias : desk.zeros;
    const int64_t padded = winograd_padded(s.out);
    Place place = Place::of(s, first);
    for (int64_t t = 0; t < tiles; ++t, place.next(s)) {
      const int64_t rows = s.out_height - place.row, columns = s.out_width - place.column;
      Value* const corner = out + ((place.image * s.out_height + place.row) * s.out_width + place.column) * s.out;
      for (int64_t x = 0; x < std::min(kTile, columns); ++x) {
        for (int64_t c = 0; c < s.out; c += kLanes) {
          __m512 made[kPoints], to[kTile];
#pragma GCC unroll 8
          for (int64_t k = 0; k < kPoints; ++k) {
            made[k] = _mm512_loadu_ps(half + ((k * s.block + t) * kTile + x) * padded + c);
          }
          Maps::to_output(made, to);
          const __mmask16 mask = winograd_mask(s.out - c);
          const __m512 plus = _mm512_maskz_loadu_ps(mask, added + c);
#pragma GCC unroll 8
          for (int64_t y = 0; y < kTile; ++y) {
            if (y < rows) Numbers::store(to[y] + plus, mask, corner + (y * s.out_width + x) * s.out + c);
          }
        }
      }
    }
  }

  // --- Backward

  struct AcrossTiles {
    Sight* slabs;  // [6, slab], a slab being [tiles / kTogether, channels and a gap]
    int64_t slab, row;
    float* first;  // [6, channels]: of a tile that waits for its second
    int64_t channels;
    int64_t tile, tiles;

    LOCKSTEP_TARGET [[gnu::always_inline]] inline void take(int64_t k, int64_t channel, const __m512& floats) {
      Sight* const to = slabs + k * slab + tile / kTogether * row + channel;
      if (kTogether == 1) {
        Numbers::see(floats, floats, to);
      } else if (tile % 2 == 1) {
        Numbers::see(_mm512_loadu_ps(first + k * channels + channel), floats, to);
      } else if (tile + 1 < tiles) {
        _mm512_storeu_ps(first + k * channels + channel, floats);
      } else {
        Numbers::see(floats, _mm512_setzero_ps(), to);
      }
    }
  };

  template <typename Down, typename Across, int64_t kSide>
  LOCKSTEP_TARGET LOCKSTEP_INLINE void slabs_of(const WinogradShape& s, int64_t first, const Band<kSide>& band,
                                                AcrossTiles put) {
    Place place = Place::of(s, first);
    bool filled = false;
    for (; put.tile < put.tiles; ++put.tile) {
      map_tile<Down, Across>(band, place, filled, put);
      place.next(s);
      filled = place.column != 0;
    }
  }

  template <int64_t kPoint>
  LOCKSTEP_TARGET LOCKSTEP_INLINE void backward_at(const WinogradShape& s, int64_t first, int64_t tiles, bool added,
                                                   const Value* images, const Value* gradient, float* of_factors,
                                                   const Desk& desk) {
    const int64_t depth = (tiles + kTogether - 1) / kTogether, most = s.block / kTogether;
    const int64_t in = winograd_padded(s.in), out = winograd_padded(s.out);
    const int64_t in_row = in + kGap, out_row = out + kGap;
    const int64_t in_slab = most * in_row + kGap, out_slab = most * out_row + kGap;
    auto* const in_slabs = static_cast<Sight*>(static_cast<void*>(desk.slabs));
    Sight* const out_slabs = in_slabs + kPoints * in_slab;
    float* const waiting = desk.slabs + s.slabs();
    slabs_of<typename Maps::template FromInputAt<kPoint>, typename Maps::FromInput>(
        s, first, Band<kPoints>{images, s.height, s.width, s.in, s.padding, desk.in_band, desk.zeros},
        AcrossTiles{in_slabs, in_slab, in_row, waiting, in, 0, tiles});
    slabs_of<typename Maps::template FromOutputAt<kPoint>, typename Maps::FromOutput>(
        s, first, Band<kTile>{gradient, s.out_height, s.out_width, s.out, 0, desk.out_band, desk.zeros},
        AcrossTiles{out_slabs, out_slab, out_row, waiting, out, 0, tiles});
    for (int64_t k = 0; k < kPoints; ++k) {
      for (int64_t c = 0; c < in; c += kWinogradChannels) {
        for (int64_t row = 0; row < s.out; row += kRows) {
          product(added, depth, out_slabs + k * out_slab + row, 1, out_row, in_slabs + k * in_slab + c, in_row,
                  of_factors + ((kPoint * kPoints + k) * s.out + row) * in + c, in);
        }
      }
    }
  }

  LOCKSTEP_TARGET static void backward(const WinogradShape& s, int64_t block, bool added, const Value* images,
                                       const Value* gradient, float* of_factors, float* scratch) {
    const int64_t first = block * s.block, tiles = std::min(s.block, s.tiles() - first);
    const Desk desk = Desk::on(s, scratch);
    backward_at<0>(s, first, tiles, added, images, gradient, of_factors, desk);
    backward_at<1>(s, first, tiles, added, images, gradient, of_factors, desk);
    backward_at<2>(s, first, tiles, added, images, gradient, of_factors, desk);
    backward_at<3>(s, first, tiles, added, images, gradient, of_factors, desk);
    backward_at<4>(s, first, tiles, added, images, gradient, of_factors, desk);
    backward_at<5>(s, first, tiles, added, images, gradient, of_factors, desk);
  }

  LOCKSTEP_TARGET static void sum_pixels(int64_t pixels, int64_t out, const Value* values, float* to) {
    for (int64_t c = 0; c < out; c += kWinogradChannels) {
      __m512 sum[kParts];
#pragma GCC unroll 8
      for (int64_t part = 0; part < kParts; ++part) sum[part] = _mm512_loadu_ps(to + c + part * kLanes);
      for (int64_t i = 0; i < pixels; ++i) {
#pragma GCC unroll 8
        for (int64_t part = 0; part < kParts; ++part) {
          __m512 value;
          Numbers::load(values + i * out + c + part * kLanes, 0xffff, value);
          sum[part] += value;
        }
      }
#pragma GCC unroll 8
      for (int64_t part = 0; part < kParts; ++part) _mm512_storeu_ps(to + c + part * kLanes, sum[part]);
    }
  }

  static constexpr Kernels all{Factors::factors, Factors::turned_factors, Factors::of_weights, forward, backward,
                               sum_pixels};
};

}  // namespace
}  // namespace lockstep::kernels
