// Measuring one size of all-reduce: ours and MPI's own, in turns.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "bench/summary.h"

namespace lockstep {

class PlainMpi;
class World;

struct AllreduceOptions {
  enum class Check {
    some,  ///< the results of the warm-up and of the last timed call
    all,   ///< and of every timed call
  };
  int64_t iterations = 0;  ///< timed calls of each kind; 0: as fit into about 0.3 s, from 5 to 2000
  int64_t warmup = 3;      ///< calls of each kind before them, at least 1
  Check check = Check::some;
};

/// One size. A call's time is that of its slowest rank, from a barrier to its return there, in microseconds.
struct AllreduceRow {
  int64_t bytes = 0;
  int64_t count = 0;  ///< float32 elements
  int64_t iterations = 0;
  Summary us;            ///< of World::process_group()'s allreduce, a GPU's end of it waited for
  double algbw = 0;      ///< bytes / mean time, in GB/s (10^9 bytes)
  double busbw = 0;      ///< algbw * 2 (n - 1) / n at n ranks, in GB/s
  int64_t wrong = 0;     ///< elements that were not the sum, over all checked calls and ranks
  Summary plain_us;      ///< of MPI_Allreduce, in host memory
  double ratio() const;  ///< ours / plain, of the medians: below 1 ours is faster
};

/// The factor from algbw to busbw at `ranks`: 2 (n - 1) / n, for an all-reduce moves that many times its size through
/// each rank's link whatever the algorithm (NVIDIA nccl-tests, doc/PERFORMANCE.md). 0 at one rank.
double bus_factor(int ranks);

/// Collective: sums the whole of `buffer` (float32, contiguous, on World::device; its content is lost) over and over.
/// Ours and plain calls alternate in batches of a tenth of the iterations, either kind going first in turn, so that a
/// disturbance hits both. Each call's input is whole numbers, different on each rank and from element to element, whose
/// sum is exact in any order. The row is the same on all ranks.
AllreduceRow measure_allreduce(World& world, PlainMpi& plain, const at::Tensor& buffer,
                               const AllreduceOptions& options);

}  // namespace lockstep
