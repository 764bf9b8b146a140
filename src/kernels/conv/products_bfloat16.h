// For the files of loops only, each of which says in LOCKSTEP_TARGET for which processor they are compiled: products of
// bfloat16, by AVX-512's of pairs: sum += first * first + second * second.
//   Register                sixteen Sights
//   load(sights, register)  side by side
//   spread(sight, register) the Sight that begins there, sixteen times
//   add(sum, a, b)          products, summed in float32
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/processor.h"
#include "kernels/vectors.h"

namespace lockstep::kernels {
namespace {

struct BFloat16Products {
  using Value = uint16_t;
  using Sight = uint32_t;
  using Register = __m512i;

  LOCKSTEP_TARGET LOCKSTEP_INLINE void load(const uint32_t* from, __m512i& to) { to = _mm512_loadu_si512(from); }
  template <typename Element>
  LOCKSTEP_TARGET LOCKSTEP_INLINE void spread(const Element* from, __m512i& to) {
    int32_t pair;
    std::memcpy(&pair, from, sizeof pair);
    to = _mm512_set1_epi32(pair);
  }
  LOCKSTEP_TARGET LOCKSTEP_INLINE void add(__m512& sum, const __m512i& a, const __m512i& b) {
    sum = _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  }
};

}  // namespace
}  // namespace lockstep::kernels
