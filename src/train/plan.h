// How many steps a run takes and what each rank does in one.
#pragma once

#include <cstdint>

#include "lockstep/settings.h"

namespace lockstep {

struct Plan {
  int64_t global_batch = 0;
  int64_t shards = 1;  ///< that a step's images are dealt to: the ranks, or the virtual ranks
  int64_t shards_per_rank = 1;
  int64_t accumulate = 1;     ///< passes of a shard
  int64_t most_per_rank = 0;  ///< images of rank 0 in a full step; of the last rank: least_per_rank
  int64_t least_per_rank = 0;
  /// As PyTorch: an epoch is padded with its first images to a multiple of the ranks. Only where the ranks divide the
  /// global batch; otherwise, and with virtual ranks, every image is taken once.
  bool padded = false;
  int64_t images_per_epoch = 0;  ///< with the padding
  int64_t steps_per_epoch = 0;
  int64_t total_steps = 0;      ///< of the run, train.max_steps considered
  int64_t scheduled_steps = 0;  ///< of all epochs, whatever train.max_steps says: what optim.schedule counts
};

/// Throws Error: launch when there are more ranks than images in the set or in a step, or virtual ranks that the ranks
/// do not divide; usage when shards are smaller than the passes they are cut into. `images`: of the training set.
Plan make_plan(const Settings& settings, int world_size, int64_t images);

}  // namespace lockstep
