// Loops over LibTorch's own threads.
#pragma once

#include <c10/util/FunctionRef.h>

#include <cstdint>

namespace lockstep::kernels {

/// Calls body(first, last) for pieces of [begin, end), each of at least `grain` but the last, on at most
/// at::get_num_threads() threads; which pieces there are depends on that number only. Rethrows one of the bodies'
/// exceptions. Inside another such loop, and where LibTorch has no OpenMP threads: one piece after the other.
///
/// at::parallel_for does so only in code that is compiled with -fopenmp, which would bring a second OpenMP runtime,
/// with threads of its own, where LibTorch comes with one of another name.
void parallel_for(int64_t begin, int64_t end, int64_t grain, c10::function_ref<void(int64_t, int64_t)> body);

}  // namespace lockstep::kernels
