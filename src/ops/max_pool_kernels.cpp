// Written so that g++ vectorises them, for each kind of processor anew. Comparisons give masks as wide as a float: with
// masks of bytes g++ makes branches, which winners that nobody can foretell turn into most of the time.
#include "ops/max_pool_kernels.h"

#include <bit>
#include <type_traits>

namespace lockstep {
namespace {

// A float32 with the value of the element.
template <typename Bits>
[[gnu::always_inline]] inline uint32_t widen(Bits bits) {
  if constexpr (sizeof(Bits) == 2) {
    return static_cast<uint32_t>(bits) << 16;
  } else {
    return bits;
  }
}

template <typename Bits>
[[gnu::always_inline]] inline Bits narrow(uint32_t bits) {
  if constexpr (sizeof(Bits) == 2) {
    return static_cast<Bits>(bits >> 16);
  } else {
    return bits;
  }
}

// The candidate at `place` takes over where it is greater, or not a number.
[[gnu::always_inline]] inline void challenge(uint32_t candidate, uint32_t place, uint32_t& best, uint32_t& winner) {
  const auto value = std::bit_cast<float>(candidate);
  const bool wins =
      static_cast<bool>(static_cast<int>(value > std::bit_cast<float>(best)) | static_cast<int>(value != value));
  best = wins ? candidate : best;
  winner = wins ? place : winner;
}

// Values side by side that a loop takes at once: a number known to the compiler, for pixels have few.
constexpr int64_t kBlock = 32;

template <typename Bits>
[[gnu::always_inline]] inline void pick(const Bits* __restrict a, const Bits* __restrict b, Bits* __restrict out,
                                        uint8_t* __restrict winners, int64_t count, int64_t channels) {
  for (int64_t c = 0; c < count; ++c) {
    uint32_t best = widen(a[c]);
    uint32_t winner = 0;
    challenge(widen(a[channels + c]), 1, best, winner);
    challenge(widen(b[c]), 2, best, winner);
    challenge(widen(b[channels + c]), 3, best, winner);
    out[c] = narrow<Bits>(best);
    winners[c] = static_cast<uint8_t>(winner);
  }
}

template <typename Bits>
[[gnu::always_inline]] inline void hand_back(const Bits* __restrict gradient, const uint8_t* __restrict winners,
                                             Bits* __restrict a, Bits* __restrict b, int64_t count, int64_t channels) {
  const auto if_at = [](Bits value, Bits winner, Bits place) {
    return static_cast<Bits>(value & static_cast<Bits>(-static_cast<Bits>(winner == place)));
  };
  for (int64_t c = 0; c < count; ++c) {
    const Bits winner = winners[c];
    a[c] = if_at(gradient[c], winner, 0);
    a[channels + c] = if_at(gradient[c], winner, 1);
    b[c] = if_at(gradient[c], winner, 2);
    b[channels + c] = if_at(gradient[c], winner, 3);
  }
}

template <typename Bits>
[[gnu::always_inline]] inline void forward_row(const Bits* upper, const Bits* lower, Bits* out, uint8_t* winners,
                                               int64_t pixels, int64_t channels) {
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    int64_t c = 0;
    for (; c + kBlock <= channels; c += kBlock) pick(upper + c, lower + c, out + c, winners + c, kBlock, channels);
    pick(upper + c, lower + c, out + c, winners + c, channels - c, channels);
    upper += 2 * channels;
    lower += 2 * channels;
    out += channels;
    winners += channels;
  }
}

template <typename Bits>
[[gnu::always_inline]] inline void backward_row(const Bits* gradient, const uint8_t* winners, Bits* upper, Bits* lower,
                                                int64_t pixels, int64_t channels) {
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    int64_t c = 0;
    for (; c + kBlock <= channels; c += kBlock) {
      hand_back(gradient + c, winners + c, upper + c, lower + c, kBlock, channels);
    }
    hand_back(gradient + c, winners + c, upper + c, lower + c, channels - c, channels);
    upper += 2 * channels;
    lower += 2 * channels;
    gradient += channels;
    winners += channels;
  }
}

#define LOCKSTEP_POOL_LOOPS(name, attribute)                                                                      \
  template <typename Bits>                                                                                        \
  attribute void forward_##name(const Bits* upper, const Bits* lower, Bits* out, uint8_t* winner, int64_t pixels, \
                                int64_t channels) {                                                               \
    forward_row(upper, lower, out, winner, pixels, channels);                                                     \
  }                                                                                                               \
  template <typename Bits>                                                                                        \
  attribute void backward_##name(const Bits* gradient, const uint8_t* winner, Bits* upper, Bits* lower,           \
                                 int64_t pixels, int64_t channels) {                                              \
    backward_row(gradient, winner, upper, lower, pixels, channels);                                               \
  }

LOCKSTEP_POOL_LOOPS(any, )
#ifdef __x86_64__
LOCKSTEP_POOL_LOOPS(avx2, LOCKSTEP_FOR_AVX2)
LOCKSTEP_POOL_LOOPS(avx512, LOCKSTEP_FOR_AVX512)
#endif
#undef LOCKSTEP_POOL_LOOPS

}  // namespace

template <typename Bits>
PoolKernels<Bits> pool_kernels(Processor processor) {
  switch (processor) {
#ifdef __x86_64__
    case Processor::avx512:
      return {forward_avx512<Bits>, backward_avx512<Bits>};
    case Processor::avx2:
      return {forward_avx2<Bits>, backward_avx2<Bits>};
#endif
    default:
      return {forward_any<Bits>, backward_any<Bits>};
  }
}

template PoolKernels<uint32_t> pool_kernels(Processor);
template PoolKernels<uint16_t> pool_kernels(Processor);

}  // namespace lockstep
