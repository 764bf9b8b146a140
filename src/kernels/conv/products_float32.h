// For the files of loops only, each of which says in LOCKSTEP_TARGET for which processor they are compiled: products of
// float32.
//   Register                sixteen Sights
//   load(sights, register)  side by side
//   spread(sight, register) the Sight that begins there, sixteen times
//   add(sum, a, b)          products, summed in float32
#include <immintrin.h>

#include <cstdint>

#include "kernels/processor.h"
#include "kernels/vectors.h"

namespace lockstep::kernels {
namespace {

struct Float32Products {
  using Value = float;
  using Sight = float;
  using Register = __m512;

  LOCKSTEP_TARGET LOCKSTEP_INLINE void load(const float* from, __m512& to) { to = _mm512_loadu_ps(from); }
  LOCKSTEP_TARGET LOCKSTEP_INLINE void spread(const float* from, __m512& to) { to = _mm512_set1_ps(*from); }
  LOCKSTEP_TARGET LOCKSTEP_INLINE void add(__m512& sum, const __m512& a, const __m512& b) {
    sum = _mm512_fmadd_ps(a, b, sum);
  }
};

}  // namespace
}  // namespace lockstep::kernels
