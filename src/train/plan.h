// How many steps a run takes and what each rank does in one.
#pragma once

#include <cstdint>

#include "lockstep/settings.h"

namespace lockstep {

struct Plan {
  int64_t batch_per_rank = 0;
  int64_t steps_per_epoch = 0;
  int64_t total_steps = 0;  ///< of the run, train.max_steps considered
};

/// Throws Error: usage when the ranks don't divide the global batch, launch when there are more ranks than images.
/// `sampler_size` is what one rank takes in an epoch.
Plan make_plan(const Settings& settings, int world_size, int64_t images, int64_t sampler_size);

}  // namespace lockstep
