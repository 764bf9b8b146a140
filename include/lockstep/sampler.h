// Which images a rank takes in an epoch: PyTorch's DistributedSampler, index for index.
#pragma once

#include <cstdint>
#include <vector>

namespace lockstep {

/// Shards the indices 0 … size-1 over ranks exactly as torch.utils.data.DistributedSampler does
/// (torch/utils/data/distributed.py): a permutation by torch.randperm from a fresh generator seeded with seed + epoch,
/// padded with its own beginning (or, with drop_last, cut) to a multiple of the rank count; rank r takes entries r, r +
/// world, r + 2·world, … So step s over all ranks covers entries [s·B, (s+1)·B) of the permutation, B being the global
/// batch.
///
///     DistributedSampler sampler({.size = 50000, .world_size = 2, .rank = 0, .shuffle = true});
///     auto indices = sampler.indices(/*epoch=*/0);   // 25,000 entries
///
/// A value: no communication, no state between calls, any thread.
class DistributedSampler {
 public:
  struct Options {
    int64_t size = 0;  ///< entries of the data set, at least 1
    int world_size = 1;
    int rank = 0;
    bool shuffle = true;
    uint64_t seed = 0;
    bool drop_last = false;
  };

  /// Throws Error (ExitCode::usage) for a size below 1 or a rank outside the world.
  explicit DistributedSampler(const Options& options);

  /// Entries each rank takes in an epoch: the same on every rank.
  int64_t size() const { return samples_per_rank_; }

  /// The entries of this rank in `epoch`, in order; size() of them.
  std::vector<int64_t> indices(int64_t epoch) const;

  /// The whole epoch before it is dealt: size() * world_size entries, padding included.
  std::vector<int64_t> permutation(int64_t epoch) const;

 private:
  Options options_;
  int64_t samples_per_rank_;
};

}  // namespace lockstep
