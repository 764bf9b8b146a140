// What the loops of this room are compiled for; each is, for every kind.
#pragma once

namespace lockstep::kernels {

enum class Processor { any, avx2, avx512 };

/// The last of them that this processor has, or that ATEN_CPU_CAPABILITY allows (`default`: any, `avx2`), as for
/// LibTorch's kernels.
Processor best_processor();

/// Whether this processor multiplies matrices of bfloat16 with tiles of its own (AMX).
bool has_bfloat16_tiles();

/// Whether it multiplies vectors of bfloat16 twice as fast as those of float32: AVX-512's instructions for them as AMD
/// has them. Intel's take longer than float32's.
bool has_fast_bfloat16_vectors();

/// Whether products of bfloat16 are faster on this processor than those of float32: with such vectors and with AMX.
/// Processors without either make float32 of bfloat16 to multiply it, which cannot gain (not measured).
bool has_fast_bfloat16();

}  // namespace lockstep::kernels

// The attributes of a loop for each kind. Its parts are [[gnu::always_inline]], so that they are compiled with them.
#ifdef __x86_64__
#define LOCKSTEP_FOR_AVX2 [[gnu::target("avx2,fma")]]
#define LOCKSTEP_FOR_AVX512 [[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,fma,prefer-vector-width=512")]]
#define LOCKSTEP_FOR_AVX512_BF16 \
  [[gnu::target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma,prefer-vector-width=512")]]
#endif
