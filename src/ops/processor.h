// What the loops of this room are compiled for; each is, for every kind.
#pragma once

namespace lockstep {

enum class Processor { any, avx2, avx512 };

/// The last of them that this processor has.
Processor best_processor();

}  // namespace lockstep

// The attributes of a loop for each kind. Its parts are [[gnu::always_inline]], so that they are compiled with them.
#ifdef __x86_64__
#define LOCKSTEP_FOR_AVX2 [[gnu::target("avx2,fma")]]
#define LOCKSTEP_FOR_AVX512 [[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,fma,prefer-vector-width=512")]]
#endif
