#include "kernels/processor.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

namespace lockstep::kernels {
namespace {

// LibTorch's switch (ATen/native/DispatchStub.cpp) for both: a run on a newer processor then repeats an older one's.
Processor allowed_processor() {
  const char* const text = std::getenv("ATEN_CPU_CAPABILITY");
  const std::string_view name = text == nullptr ? "" : text;
  if (name == "default") return Processor::any;
  if (name == "avx2") return Processor::avx2;
  return Processor::avx512;
}

Processor processor_here() {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma")) {
    return Processor::avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Processor::avx2;
#endif
  return Processor::any;
}

}  // namespace

Processor best_processor() {
  static const Processor best = std::min(processor_here(), allowed_processor());
  return best;
}

bool has_bfloat16_tiles() {
#ifdef __x86_64__
  static const bool has = __builtin_cpu_supports("amx-bf16") != 0 && best_processor() == Processor::avx512;
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

}  // namespace lockstep::kernels
