// Which images each rank takes in each step.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "train/plan.h"

namespace lockstep {

/// One forward and backward pass.
struct Pass {
  std::span<const int64_t> images;  ///< at least one
  double weight = 1;                ///< of the mean over these images in the step's loss
};

/// Deals the entries of an epoch. Step s takes entries [s·B, (s+1)·B) of the epoch's permutation, whatever the number
/// of ranks, and shard k of K (ranks, or virtual ranks) every K-th of them from the k-th on. Where the shares of a step
/// are unequal each image counts the same all the same: the weights of all passes add up to the number of averaging
/// ranks.
class Deal {
 public:
  /// `averaging_ranks`: what the gradients of all shards are divided by after they were added; 1: nothing.
  Deal(const Plan& plan, int averaging_ranks) : plan_(plan), averaging_ranks_(averaging_ranks) {}

  /// The epoch's permutation, padded or not as the plan says.
  void begin_epoch(std::vector<int64_t> permutation) { entries_ = std::move(permutation); }

  /// Images of all ranks in a step of the epoch.
  int64_t images(int64_t step) const;

  /// Passes of `shard` in that step; valid until the next call. A shard without images (in a last batch that is smaller
  /// than the number of shards) has one pass over the step's first image with weight 0.
  std::span<const Pass> passes(int64_t step, int64_t shard);

 private:
  Plan plan_;
  int averaging_ranks_;
  std::vector<int64_t> entries_;
  std::vector<int64_t> images_;
  std::vector<Pass> passes_;
};

}  // namespace lockstep
