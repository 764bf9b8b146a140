// The loops over channels are written so that g++ vectorises them, for each kind of processor anew. Comparisons give
// masks as wide as a float: with masks of bytes g++ makes branches, which winners that nobody can foretell turn into
// most of the time.
#include "kernels/max_pool_kernels.h"

#include <bit>
#include <cstring>

#include "kernels/vectors.h"

namespace lockstep::kernels {
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

template <typename Bits>
constexpr auto kNegativeZero = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));

// 0, which LibTorch adds gradients to, plus the gradient: only a negative zero changes.
template <typename Bits>
[[gnu::always_inline]] inline Bits added_to_zero(Bits gradient) {
  return static_cast<Bits>(gradient & static_cast<Bits>(-static_cast<Bits>(gradient != kNegativeZero<Bits>)));
}

// Windows side by side; the two values of a row of one are `apart`.
template <typename Bits>
[[gnu::always_inline]] inline void pick(const Bits* __restrict a, const Bits* __restrict b, Bits* __restrict out,
                                        uint8_t* __restrict winners, int64_t count, int64_t apart) {
  for (int64_t c = 0; c < count; ++c) {
    uint32_t best = widen(a[c]);
    uint32_t winner = 0;
    challenge(widen(a[apart + c]), 1, best, winner);
    challenge(widen(b[c]), 2, best, winner);
    challenge(widen(b[apart + c]), 3, best, winner);
    out[c] = narrow<Bits>(best);
    winners[c] = static_cast<uint8_t>(winner);
  }
}

template <typename Bits>
[[gnu::always_inline]] inline void hand_back(const Bits* __restrict gradient, const uint8_t* __restrict winners,
                                             Bits* __restrict a, Bits* __restrict b, int64_t count, int64_t apart) {
  const auto if_at = [](Bits value, Bits winner, Bits place) {
    return static_cast<Bits>(value & static_cast<Bits>(-static_cast<Bits>(winner == place)));
  };
  for (int64_t c = 0; c < count; ++c) {
    const Bits value = added_to_zero(gradient[c]);
    const Bits winner = winners[c];
    a[c] = if_at(value, winner, 0);
    a[apart + c] = if_at(value, winner, 1);
    b[c] = if_at(value, winner, 2);
    b[apart + c] = if_at(value, winner, 3);
  }
}

// Of contiguous images: the two values of a row of a window lie side by side, for which g++ finds no good code by
// itself. Vectors of 16 bytes, which it takes everywhere: longer ones it takes to pieces before it knows the processor.
template <typename Bits>
struct Plane {
  static constexpr int64_t kLanes = 4;
  using Floats = typename Vectors<kLanes>::Floats;
  using Words = typename Vectors<kLanes>::Words;
  using Halves = typename Vectors<kLanes>::Halves;
  using Bytes = typename Vectors<kLanes>::Bytes;

  template <typename Vector, typename Element>
  LOCKSTEP_INLINE void load(const Element* from, Vector& to) {
    std::memcpy(&to, from, sizeof to);
  }
  template <typename Vector, typename Element>
  LOCKSTEP_INLINE void store(const Vector& from, Element* to) {
    std::memcpy(to, &from, sizeof from);
  }

  // The left and the right values of kLanes windows, as bits of float32.
  LOCKSTEP_INLINE void part(const uint32_t* row, Words& left, Words& right) {
    Words first, second;
    load(row, first);
    load(row + kLanes, second);
    left = __builtin_shuffle(first, second, Words{0, 2, 4, 6});
    right = __builtin_shuffle(first, second, Words{1, 3, 5, 7});
  }
  LOCKSTEP_INLINE void part(const uint16_t* row, Words& left, Words& right) {
    Words both;
    load(row, both);
    left = both << 16;
    right = both & 0xffff0000U;
  }

  // The other way, each value in its lowest bits.
  LOCKSTEP_INLINE void join(const Words& left, const Words& right, uint32_t* row) {
    store(__builtin_shuffle(left, right, Words{0, 4, 1, 5}), row);
    store(__builtin_shuffle(left, right, Words{2, 6, 3, 7}), row + kLanes);
  }
  LOCKSTEP_INLINE void join(const Words& left, const Words& right, uint16_t* row) { store(left | right << 16, row); }

  LOCKSTEP_INLINE void challenge(const Words& candidate, uint32_t place, Words& best, Words& winner) {
    Floats value, greatest;
    load(&candidate, value);
    load(&best, greatest);
    const auto wins = (value > greatest) | (value != value);
    best = wins ? candidate : best;
    winner = wins ? Words{} + place : winner;
  }

  LOCKSTEP_INLINE void pick(const Bits* a, const Bits* b, Bits* out, uint8_t* winners) {
    Words best, right, lower_left, lower_right, winner{};
    part(a, best, right);
    part(b, lower_left, lower_right);
    challenge(right, 1, best, winner);
    challenge(lower_left, 2, best, winner);
    challenge(lower_right, 3, best, winner);
    if constexpr (sizeof(Bits) == 2) {
      store(__builtin_convertvector(best >> 16, Halves), out);
    } else {
      store(best, out);
    }
    store(__builtin_convertvector(winner, Bytes), winners);
  }

  LOCKSTEP_INLINE void hand_back(const Bits* gradient, const uint8_t* winners, Bits* a, Bits* b) {
    Words value;
    if constexpr (sizeof(Bits) == 2) {
      Halves halves;
      load(gradient, halves);
      value = __builtin_convertvector(halves, Words);
    } else {
      load(gradient, value);
    }
    Bytes bytes;
    load(winners, bytes);
    const Words winner = __builtin_convertvector(bytes, Words);
    value = value == uint32_t{kNegativeZero<Bits>} ? Words{} : value;
    const Words none{};
    join(winner == 0 ? value : none, winner == 1 ? value : none, a);
    join(winner == 2 ? value : none, winner == 3 ? value : none, b);
  }
};

template <typename Bits>
[[gnu::always_inline]] inline void forward_plane(const Bits* upper, const Bits* lower, Bits* out, uint8_t* winners,
                                                 int64_t windows) {
  int64_t at = 0;
  for (; at + Plane<Bits>::kLanes <= windows; at += Plane<Bits>::kLanes) {
    Plane<Bits>::pick(upper + 2 * at, lower + 2 * at, out + at, winners + at);
  }
  for (; at < windows; ++at) pick(upper + 2 * at, lower + 2 * at, out + at, winners + at, 1, 1);
}

template <typename Bits>
[[gnu::always_inline]] inline void backward_plane(const Bits* gradient, const uint8_t* winners, Bits* upper,
                                                  Bits* lower, int64_t windows) {
  int64_t at = 0;
  for (; at + Plane<Bits>::kLanes <= windows; at += Plane<Bits>::kLanes) {
    Plane<Bits>::hand_back(gradient + at, winners + at, upper + 2 * at, lower + 2 * at);
  }
  for (; at < windows; ++at) hand_back(gradient + at, winners + at, upper + 2 * at, lower + 2 * at, 1, 1);
}

// Values side by side that a loop takes at once: a number known to the compiler, for pixels have few.
constexpr int64_t kBlock = 32;

template <typename Bits>
[[gnu::always_inline]] inline void forward_row(const Bits* upper, const Bits* lower, Bits* out, uint8_t* winners,
                                               int64_t pixels, int64_t channels) {
  if (channels == 1) return forward_plane(upper, lower, out, winners, pixels);
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
  if (channels == 1) return backward_plane(gradient, winners, upper, lower, pixels);
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

}  // namespace lockstep::kernels
