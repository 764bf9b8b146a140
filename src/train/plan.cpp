#include "train/plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "lockstep/error.h"

namespace lockstep {

Plan make_plan(const Settings& settings, int world_size, int64_t images, int64_t sampler_size) {
  if (world_size > images) {
    throw Error(ExitCode::launch, fmt::format("{} ranks, but only {} training images", world_size, images),
                "start fewer ranks, or give more data");
  }
  const int64_t batch = settings.train_global_batch;
  if (batch % world_size != 0) {
    const int64_t down = std::max<int64_t>(world_size, batch / world_size * world_size);
    throw Error(ExitCode::usage, fmt::format("{} ranks do not divide train.global_batch = {}", world_size, batch),
                fmt::format("--set train.global_batch={}, or another number of ranks", down));
  }
  Plan plan;
  plan.batch_per_rank = batch / world_size;
  plan.steps_per_epoch = (sampler_size + plan.batch_per_rank - 1) / plan.batch_per_rank;
  plan.total_steps = settings.train_epochs * plan.steps_per_epoch;
  if (settings.train_max_steps > 0) plan.total_steps = std::min(plan.total_steps, settings.train_max_steps);
  return plan;
}

}  // namespace lockstep
