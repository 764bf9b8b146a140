// For the files of these loops only, each of which says in LOCKSTEP_TARGET for which processor they are compiled, and
// in Numbers what of:
//   Value                                          as in PooledGradientKernels
//   value(bits)                                    the float of a Value
//   tables(upper, lower, tables, across, channels) those of `across` places of a row, from it and the row below
//   choose(gradient, winners, next, words)         a step's choices for kPooledBlock channels; next: from a window's
//                                                  values to those of the window to the right, 0 if there is none
//   add(sum, table, gradients, places)             the products of a register of them
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kernels/conv/pooled_gradient_kernels.h"
#include "kernels/processor.h"
#include "kernels/vectors.h"

namespace lockstep::kernels {
namespace {

template <typename Numbers>
struct PooledLoops {
  using Value = typename Numbers::Value;
  using Kernels = PooledGradientKernels<Value>;

  static constexpr int64_t kWords = 16;                         // of a register
  static constexpr int64_t kRegisters = kPooledBlock / kWords;  // of a block of output channels
  static constexpr int64_t kPlaces = 8;                         // taps whose gradients are summed at a time
  static constexpr int64_t kStep = 2 * kPooledBlock;            // words of a step's choices

  LOCKSTEP_TARGET static void tables(const PooledShape& s, const Value* padded, Value* __restrict tables) {
    const int64_t across = s.tables_across(Kernels::kWindows), c = s.channels;
    for (int64_t row = 0; row < s.table_rows(); ++row) {
      const Value* upper = padded + row * s.padded_row;
      Numbers::tables(upper, upper + s.padded_row, tables + row * across * Kernels::kTable, across, c);
    }
  }

  LOCKSTEP_TARGET static void choices(const PooledShape& s, const Value* gradient, const uint8_t* winners,
                                      uint32_t* __restrict to) {
    const int64_t steps = s.steps(Kernels::kWindows), block = s.windows_down * steps * kStep;
    for (int64_t y = 0; y < s.windows_down; ++y) {
      for (int64_t step = 0; step < steps; ++step) {
        const int64_t at = (y * s.windows_across + step * Kernels::kWindows) * s.out_channels;
        // An odd last window is joined by one whose gradients are 0.
        const bool alone = step * Kernels::kWindows + 1 == s.windows_across;
        for (int64_t b = 0; b < s.out_channels / kPooledBlock; ++b) {
          const int64_t from = at + b * kPooledBlock;
          uint32_t* words = to + b * block + (y * steps + step) * kStep;
          Numbers::choose(gradient + from, winners + from, alone ? 0 : s.out_channels, words);
        }
      }
    }
  }

  // The sums of kCount taps of one row of the kernel, over all windows.
  template <int64_t kCount>
  LOCKSTEP_TARGET LOCKSTEP_INLINE void taps(const PooledShape& s, const Value* tables, const uint32_t* choices,
                                            float* of_weights) {
    __m512 sum[kCount][kRegisters];
#pragma GCC unroll 16
    for (int64_t tap = 0; tap < kCount; ++tap) {
#pragma GCC unroll 2
      for (int64_t part = 0; part < kRegisters; ++part) {
        sum[tap][part] = _mm512_loadu_ps(of_weights + tap * s.out_channels + part * kWords);
      }
    }
    const int64_t steps = s.steps(Kernels::kWindows), across = s.tables_across(Kernels::kWindows);
    for (int64_t y = 0; y < s.windows_down; ++y) {
      const Value* from = tables + 2 * y * across * Kernels::kTable;
      for (int64_t step = 0; step < steps; ++step) {
        __m512i gradients[kRegisters], places[kRegisters];
#pragma GCC unroll 2
        for (int64_t part = 0; part < kRegisters; ++part) {
          gradients[part] = _mm512_loadu_si512(choices + part * kWords);
          places[part] = _mm512_loadu_si512(choices + kPooledBlock + part * kWords);
        }
#pragma GCC unroll 16
        for (int64_t tap = 0; tap < kCount; ++tap) {
          __m128i table;
          std::memcpy(&table, from + tap * Kernels::kTable, sizeof table);
#pragma GCC unroll 2
          for (int64_t part = 0; part < kRegisters; ++part) {
            Numbers::add(sum[tap][part], table, gradients[part], places[part]);
          }
        }
        from += 2 * Kernels::kWindows * s.channels * Kernels::kTable;
        choices += kStep;
      }
    }
#pragma GCC unroll 16
    for (int64_t tap = 0; tap < kCount; ++tap) {
#pragma GCC unroll 2
      for (int64_t part = 0; part < kRegisters; ++part) {
        _mm512_storeu_ps(of_weights + tap * s.out_channels + part * kWords, sum[tap][part]);
      }
    }
  }

  // The same for a number of taps that is known at run time.
  template <int64_t kCount = kPlaces>
  LOCKSTEP_TARGET LOCKSTEP_INLINE void some_taps(int64_t count, const PooledShape& s, const Value* tables,
                                                 const uint32_t* choices, float* of_weights) {
    if constexpr (kCount > 0) {
      if (count == kCount) return taps<kCount>(s, tables, choices, of_weights);
      some_taps<kCount - 1>(count, s, tables, choices, of_weights);
    }
  }

  LOCKSTEP_TARGET static void add_products(const PooledShape& s, const Value* tables, const uint32_t* choices,
                                           float* of_weights) {
    const int64_t steps = s.steps(Kernels::kWindows), across = s.tables_across(Kernels::kWindows);
    for (int64_t c = 0; c < s.out_channels; c += kPooledBlock, choices += s.windows_down * steps * kStep) {
      for (int64_t row = 0; row < s.kernel_height; ++row) {
        for (int64_t tap = 0; tap < s.row_taps; tap += kPlaces) {
          some_taps(std::min(kPlaces, s.row_taps - tap), s, tables + (row * across + tap) * Kernels::kTable, choices,
                    of_weights + (row * s.row_taps + tap) * s.out_channels + c);
        }
      }
    }
  }

  LOCKSTEP_TARGET static void add_gradients(const PooledShape& s, const Value* gradient, float* __restrict of_bias) {
    for (int64_t i = 0; i < s.windows_down * s.windows_across; ++i, gradient += s.out_channels) {
      for (int64_t c = 0; c < s.out_channels; ++c) of_bias[c] += Numbers::value(gradient[c]);
    }
  }

  static PooledGradientKernels<Value> all() { return {tables, choices, add_products, add_gradients}; }
};

}  // namespace
}  // namespace lockstep::kernels
