#include "kernels/norm_gelu_kernels.h"

#include "kernels/vectors.h"

namespace lockstep::kernels {
namespace {

// (Φ(x) - 1/2) / x and (Φ(x) + x φ(x) - 1/2) / x, Φ the normal distribution and φ its density, as polynomials of degree
// 14 in u = 2 x² / kMost² - 1, the highest power first: least squares over 4,000 Chebyshev nodes. Φ is then off by at
// most 3e-7, the slope by 5e-7, which is float32's own error, without an exponential and without a division.
constexpr float kMost = 5;
constexpr int kCoefficients = 15;
constexpr float kNormal[kCoefficients] = {1.176935931e-04F, -3.030418902e-04F, 3.234488130e-04F, -6.918448356e-04F,
                                          1.940996568e-03F, -3.758024408e-03F, 6.380345403e-03F, -1.056846030e-02F,
                                          1.637125355e-02F, -2.342857212e-02F, 3.145423136e-02F, -4.042435192e-02F,
                                          5.151933770e-02F, -7.029687067e-02F, 1.413638041e-01F};
constexpr float kSlope[kCoefficients] = {2.439082177e-03F, -5.735615125e-03F, 4.078688243e-03F, -7.203916124e-03F,
                                         2.297796994e-02F, -3.821696020e-02F, 5.001638300e-02F, -6.598634568e-02F,
                                         8.034354923e-02F, -8.495648970e-02F, 8.039092581e-02F, -7.173111262e-02F,
                                         6.656245170e-02F, -7.511106477e-02F, 1.421339335e-01F};

template <int64_t kLanes, typename Bits>
struct Loops {
  using Floats = typename Vectors<kLanes>::Floats;
  using Words = typename Vectors<kLanes>::Words;
  using Signed = typename Vectors<kLanes>::Signed;
  using Halves = typename Vectors<kLanes>::Halves;

  // `count` values, at most kLanes, with zeros in the other lanes.
  template <typename Vector, typename Element>
  LOCKSTEP_INLINE void take(const Element* from, int64_t count, Vector& to) {
    if (count == kLanes) {
      std::memcpy(&to, from, sizeof to);
    } else {
      to = Vector{};
      std::memcpy(&to, from, static_cast<size_t>(count) * sizeof *from);
    }
  }
  template <typename Vector, typename Element>
  LOCKSTEP_INLINE void put(const Vector& from, int64_t count, Element* to) {
    std::memcpy(to, &from, count == kLanes ? sizeof from : static_cast<size_t>(count) * sizeof *to);
  }

  LOCKSTEP_INLINE void load(const float* from, int64_t count, Floats& to) { take(from, count, to); }
  LOCKSTEP_INLINE void load(const uint32_t* from, int64_t count, Floats& to) { take(from, count, to); }
  LOCKSTEP_INLINE void load(const uint16_t* from, int64_t count, Floats& to) {
    Halves half;
    take(from, count, half);
    const Words bits = __builtin_convertvector(half, Words) << 16;
    std::memcpy(&to, &bits, sizeof to);
  }
  LOCKSTEP_INLINE void store(const Floats& from, int64_t count, float* to) { put(from, count, to); }
  LOCKSTEP_INLINE void store(const Floats& from, int64_t count, uint32_t* to) { put(from, count, to); }
  // To the nearest bfloat16, of two the even one; not a number stays so.
  LOCKSTEP_INLINE void store(const Floats& from, int64_t count, uint16_t* to) {
    Words bits;
    std::memcpy(&bits, &from, sizeof bits);
    Words rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
    rounded = from == from ? rounded : Words{} + 0x7fc0U;
    put(__builtin_convertvector(rounded, Halves), count, to);
  }

  // 1/2 + x P(u) with u from -1 to 1 over x² from 0 to kMost², and beyond as at its edge; not a number stays so.
  LOCKSTEP_INLINE void half_and_odd(const Floats& x, const float* coefficients, Floats& result) {
    const Floats most = Floats{} + kMost;
    Floats inside = x > most ? most : x;
    inside = inside < -most ? -most : inside;
    const Floats u = inside * inside * (2 / (kMost * kMost)) - 1.0F;
    Floats sum = u * coefficients[0] + coefficients[1];
#pragma GCC unroll 16
    for (int i = 2; i < kCoefficients; ++i) sum = sum * u + coefficients[i];
    result = sum * inside + 0.5F;
  }

  // x Φ(x)
  LOCKSTEP_INLINE void gelu_of(const Floats& x, Floats& result) {
    Floats phi;
    half_and_odd(x, kNormal, phi);
    result = x * phi;
  }

  // Φ(x) + x φ(x)
  LOCKSTEP_INLINE void slope_of(const Floats& x, Floats& result) { half_and_odd(x, kSlope, result); }

  // Calls work(first, count) for each block of values.
  template <typename Work>
  LOCKSTEP_INLINE void each_block(int64_t total, const Work& work) {
    int64_t i = 0;
    for (; i + kLanes <= total; i += kLanes) work(i, kLanes);
    if (i < total) work(i, total - i);
  }

  LOCKSTEP_INLINE void sums(const Bits* x, int64_t pixels, int64_t channels, float* sum, float* squares) {
    each_block(
        channels, [&](int64_t c, int64_t count) __attribute__((always_inline)) {
          Floats s{}, q{};
          for (int64_t i = 0; i < pixels; ++i) {
            Floats v;
            load(x + i * channels + c, count, v);
            s += v;
            q += v * v;
          }
          store(s, count, sum + c);
          store(q, count, squares + c);
        });
  }

  LOCKSTEP_INLINE void forward(const Bits* x, const float* scale, const float* shift, Bits* y, int64_t pixels,
                               int64_t channels) {
    each_block(
        channels, [&](int64_t c, int64_t count) __attribute__((always_inline)) {
          Floats a, b;
          load(scale + c, count, a);
          load(shift + c, count, b);
          for (int64_t i = 0; i < pixels; ++i) {
            Floats v, result;
            load(x + i * channels + c, count, v);
            gelu_of(v * a + b, result);
            store(result, count, y + i * channels + c);
          }
        });
  }

  LOCKSTEP_INLINE void backward(const Bits* x, const Bits* gradient, const float* scale, const float* shift,
                                const float* mean, Bits* dz, int64_t pixels, int64_t channels, float* sum,
                                float* product) {
    each_block(
        channels, [&](int64_t c, int64_t count) __attribute__((always_inline)) {
          Floats a, b, m, s{}, p{};
          load(scale + c, count, a);
          load(shift + c, count, b);
          load(mean + c, count, m);
          for (int64_t i = 0; i < pixels; ++i) {
            Floats v, g, slope;
            load(x + i * channels + c, count, v);
            load(gradient + i * channels + c, count, g);
            slope_of(v * a + b, slope);
            g *= slope;
            s += g;
            p += g * (v - m);
            store(g, count, dz + i * channels + c);
          }
          store(s, count, sum + c);
          store(p, count, product + c);
        });
  }

  LOCKSTEP_INLINE void combine(const Bits* x, const float* of_dz, const float* of_x, const float* constant, Bits* dz,
                               int64_t pixels, int64_t channels) {
    each_block(
        channels, [&](int64_t c, int64_t count) __attribute__((always_inline)) {
          Floats k, l, m;
          load(of_dz + c, count, k);
          load(of_x + c, count, l);
          load(constant + c, count, m);
          for (int64_t i = 0; i < pixels; ++i) {
            Floats v, g;
            load(x + i * channels + c, count, v);
            load(dz + i * channels + c, count, g);
            store(g * k + v * l + m, count, dz + i * channels + c);
          }
        });
  }

  LOCKSTEP_INLINE void gelu(const Bits* x, Bits* y, int64_t total) {
    each_block(
        total, [&](int64_t i, int64_t count) __attribute__((always_inline)) {
          Floats v, result;
          load(x + i, count, v);
          gelu_of(v, result);
          store(result, count, y + i);
        });
  }

  LOCKSTEP_INLINE void gelu_backward(const Bits* x, const Bits* gradient, Bits* dx, int64_t total) {
    each_block(
        total, [&](int64_t i, int64_t count) __attribute__((always_inline)) {
          Floats v, g, slope;
          load(x + i, count, v);
          load(gradient + i, count, g);
          slope_of(v, slope);
          store(g * slope, count, dx + i);
        });
  }
};

#define LOCKSTEP_KERNELS(Name, lanes, attribute)                                                                  \
  template <typename Bits>                                                                                        \
  struct Name {                                                                                                   \
    using L = Loops<lanes, Bits>;                                                                                 \
    using B = const Bits*;                                                                                        \
    using F = const float*;                                                                                       \
    attribute static void sums(B x, int64_t n, int64_t c, float* s, float* q) { L::sums(x, n, c, s, q); }         \
    attribute static void forward(B x, F a, F b, Bits* y, int64_t n, int64_t c) { L::forward(x, a, b, y, n, c); } \
    attribute static void backward(B x, B g, F a, F b, F m, Bits* d, int64_t n, int64_t c, float* s, float* p) {  \
      L::backward(x, g, a, b, m, d, n, c, s, p);                                                                  \
    }                                                                                                             \
    attribute static void combine(B x, F k, F l, F m, Bits* d, int64_t n, int64_t c) {                            \
      L::combine(x, k, l, m, d, n, c);                                                                            \
    }                                                                                                             \
    attribute static void gelu(B x, Bits* y, int64_t n) { L::gelu(x, y, n); }                                     \
    attribute static void gelu_backward(B x, B g, Bits* d, int64_t n) { L::gelu_backward(x, g, d, n); }           \
    static constexpr NormGeluKernels<Bits> all = {sums, forward, backward, combine, gelu, gelu_backward};         \
  };

LOCKSTEP_KERNELS(ForAny, 4, )
#ifdef __x86_64__
LOCKSTEP_KERNELS(ForAvx2, 8, LOCKSTEP_FOR_AVX2)
LOCKSTEP_KERNELS(ForAvx512, 16, LOCKSTEP_FOR_AVX512)
#endif
#undef LOCKSTEP_KERNELS

}  // namespace

template <typename Bits>
NormGeluKernels<Bits> norm_gelu_kernels(Processor processor) {
  switch (processor) {
#ifdef __x86_64__
    case Processor::avx512:
      return ForAvx512<Bits>::all;
    case Processor::avx2:
      return ForAvx2<Bits>::all;
#endif
    default:
      return ForAny<Bits>::all;
  }
}

template NormGeluKernels<uint32_t> norm_gelu_kernels(Processor);
template NormGeluKernels<uint16_t> norm_gelu_kernels(Processor);

}  // namespace lockstep::kernels
