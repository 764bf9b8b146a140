#include "ops/processor.h"

namespace lockstep {

Processor best_processor() {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma")) {
    return Processor::avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Processor::avx2;
#endif
  return Processor::any;
}

bool has_bfloat16_tiles() {
#ifdef __x86_64__
  static const bool has = __builtin_cpu_supports("amx-bf16") != 0;
  return has;
#else
  return false;
#endif
}

bool has_fast_bfloat16_vectors() {
#ifdef __x86_64__
  static const bool has = __builtin_cpu_is("amd") != 0 && __builtin_cpu_supports("avx512bf16") != 0 &&
                          best_processor() == Processor::avx512;
  return has;
#else
  return false;
#endif
}

bool has_fast_bfloat16() {
#ifdef __x86_64__
  return has_fast_bfloat16_vectors() || has_bfloat16_tiles();
#else
  return true;  // not measured: as LibTorch does it
#endif
}

}  // namespace lockstep
