#include "train/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "lockstep/error.h"

namespace lockstep {
namespace {

bool power_of_two(int64_t number) { return std::has_single_bit(static_cast<uint64_t>(number)); }

}  // namespace

Plan make_plan(const Settings& settings, int world_size, int64_t images) {
  if (world_size > images) {
    throw Error(ExitCode::launch, fmt::format("{} ranks, but only {} training images", world_size, images),
                "start fewer ranks, or give more data");
  }
  const int64_t virtual_ranks = settings.train_virtual_ranks;
  if (virtual_ranks > 0 && (!power_of_two(virtual_ranks) || !power_of_two(world_size) || virtual_ranks < world_size)) {
    throw Error(ExitCode::launch,
                fmt::format("train.virtual_ranks = {} cannot be dealt to {} ranks", virtual_ranks, world_size),
                "both must be powers of two, with at least as many virtual ranks as ranks");
  }
  Plan plan;
  plan.global_batch = settings.train_global_batch;
  plan.accumulate = settings.train_accumulate;
  plan.shards = virtual_ranks > 0 ? virtual_ranks : world_size;
  plan.shards_per_rank = plan.shards / world_size;
  if (plan.shards > plan.global_batch) {
    throw Error(ExitCode::launch,
                fmt::format("{} {}ranks, but only {} images a step", plan.shards, virtual_ranks > 0 ? "virtual " : "",
                            plan.global_batch),
                fmt::format("start fewer ranks, or --set train.global_batch={}", plan.shards));
  }
  const int64_t smallest_shard = plan.global_batch / plan.shards;
  if (settings.train_micro_batch > 0) {
    const int64_t largest_shard = (plan.global_batch + plan.shards - 1) / plan.shards;
    const int64_t passes = (largest_shard + settings.train_micro_batch - 1) / settings.train_micro_batch;
    plan.accumulate = std::max(plan.accumulate, std::min(passes, smallest_shard));
  }
  if (plan.accumulate > smallest_shard) {
    throw Error(ExitCode::usage,
                fmt::format("train.accumulate = {} cuts shares of {} images into more passes than images",
                            plan.accumulate, smallest_shard),
                fmt::format("--set train.accumulate={} at most", smallest_shard));
  }
  const auto share = [&](int64_t rank) {
    int64_t count = 0;
    for (int64_t shard = rank * plan.shards_per_rank; shard < (rank + 1) * plan.shards_per_rank; ++shard) {
      count += (plan.global_batch - shard + plan.shards - 1) / plan.shards;
    }
    return count;
  };
  plan.most_per_rank = share(0);
  plan.least_per_rank = share(world_size - 1);
  plan.padded = virtual_ranks == 0 && plan.global_batch % world_size == 0;
  plan.images_per_epoch = plan.padded ? (images + world_size - 1) / world_size * world_size : images;
  plan.steps_per_epoch = (plan.images_per_epoch + plan.global_batch - 1) / plan.global_batch;
  plan.scheduled_steps = settings.train_epochs * plan.steps_per_epoch;
  plan.total_steps = plan.scheduled_steps;
  if (settings.train_max_steps > 0) plan.total_steps = std::min(plan.total_steps, settings.train_max_steps);
  return plan;
}

}  // namespace lockstep
