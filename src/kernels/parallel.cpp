#include "kernels/parallel.h"

#include <ATen/Parallel.h>
#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <exception>

namespace lockstep::kernels {
namespace {

// What compilers make of "#pragma omp parallel": every OpenMP runtime that LibTorch is built with has it, GNU's, LLVM's
// and Intel's. It is looked up in the one that LibTorch has loaded.
using Parallel = void (*)(void (*function)(void*), void* data, unsigned threads, unsigned flags);

Parallel find_parallel() {
  static const Parallel found = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return found;
}

struct Loop {
  int64_t begin, end, piece;
  c10::function_ref<void(int64_t, int64_t)> body;
  std::atomic<int64_t> next{0};
  std::atomic<int> threads_done{0};
  std::atomic_flag failed{};
  std::exception_ptr error{};

  void work() {
    while (true) {
      const int64_t index = next++;
      const int64_t first = begin + piece * index;
      if (first >= end) return;
      try {
        body(first, std::min(end, first + piece));
      } catch (...) {
        if (!failed.test_and_set()) error = std::current_exception();
      }
    }
  }
};

}  // namespace

void parallel_for(int64_t begin, int64_t end, int64_t grain, c10::function_ref<void(int64_t, int64_t)> body) {
  if (begin >= end) return;
  const int64_t count = end - begin;
  const int64_t pieces = std::min<int64_t>(at::get_num_threads(), (count + grain - 1) / grain);
  if (pieces <= 1) return body(begin, end);
  Loop loop{.begin = begin, .end = end, .piece = (count + pieces - 1) / pieces, .body = body};
  const Parallel parallel = find_parallel();
  if (parallel == nullptr || at::in_parallel_region()) {
    loop.work();
  } else {
    // Atomics where threads begin and end, for ThreadSanitizer, which does not see how the runtime starts and joins
    // them.
    static std::atomic<uint64_t> begun{0};
    ++begun;
    parallel(
        [](void* data) {
          static_cast<void>(begun.load());
          static_cast<Loop*>(data)->work();
          ++static_cast<Loop*>(data)->threads_done;
        },
        &loop, static_cast<unsigned>(pieces), 0);
    static_cast<void>(loop.threads_done.load());
  }
  if (loop.error) std::rethrow_exception(loop.error);
}

}  // namespace lockstep::kernels
