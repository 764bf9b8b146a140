// Gradients whose bits do not depend on the number of ranks.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace torch::nn {
class Module;
}

namespace lockstep {

class World;

/// Cuts each step into V micro-shards, whatever the number of ranks, and adds their gradients in one fixed binary tree,
/// ((0 1)(2 3))((4 5)(6 7)): neighbouring shards on a rank first, then neighbouring ranks. So the parameters have the
/// same bits at every number of ranks that divides V, as long as all have the same threads (World::set_threads), build
/// and kind of processor.
///
///     lockstep::VirtualRanks shards(world, net, /*virtual_ranks=*/4);
///     torch::optim::SGD optimizer(lockstep::parameters(*net), 0.01);
///     for (…) {
///       shards.step([&](int64_t shard) {              // runs for this rank's shards, in order
///         auto [images, labels] = share(shard);       // about 1/V of the global batch
///         (cross_entropy(net->forward(images), labels) * (images.size(0) / double(global_batch))).backward();
///       });
///       optimizer.step();
///     }
///
/// What the shards' losses add up to is the loss. Each shard starts from the module's buffers as the step found them,
/// and those that shard 0 leaves behind (the statistics of batch norms) are the next step's: what
/// DistributedDataParallel does with V ranks. A parameter that a shard leaves unused counts as zero there.
///
/// Collective: construction (copies parameters and buffers from rank 0), step, sync_buffers. The constructor throws
/// Error (launch) where V or the number of ranks is no power of two, or V is smaller, and what
/// DistributedDataParallel's does. Step throws Error (usage) for a gradient that is sparse and a module that was
/// converted since. The World outlives it. One thread.
class VirtualRanks {
 public:
  VirtualRanks(World& world, std::shared_ptr<torch::nn::Module> module, int64_t virtual_ranks);
  ~VirtualRanks();
  VirtualRanks(const VirtualRanks&) = delete;
  VirtualRanks& operator=(const VirtualRanks&) = delete;

  int64_t first() const;  ///< this rank's shards are first() … first() + count() - 1
  int64_t count() const;  ///< V / number of ranks

  /// Calls `backward` for each shard of this rank with all gradients undefined; it runs any number of backward passes.
  /// Afterwards every rank holds the sum over all shards as its gradients.
  void step(const std::function<void(int64_t shard)>& backward);

  /// Rank 0's buffers replace those of all ranks: for evaluation and saving.
  void sync_buffers();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep
