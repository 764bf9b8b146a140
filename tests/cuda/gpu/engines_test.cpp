// On a GPU and on the CPU the same comes about: sums, trees, DistributedDataParallel, virtual ranks.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "ddp/tree_sum.h"
#include "gpu_world.h"
#include "lockstep/audit.h"
#include "lockstep/ddp.h"
#include "lockstep/virtual_ranks.h"
#include "lockstep/weights.h"
#include "lockstep/world.h"

namespace lockstep {
namespace {

TEST(Gpu, NcclSumsOverAllRanks) {
  std::vector<at::Tensor> tensors = {at::full({100'003}, world().rank() + 1.0, at::TensorOptions(world().device()))};
  world().process_group()->allreduce(tensors)->wait();
  const double expected = world().size() * (world().size() + 1) / 2.0;
  EXPECT_TRUE(at::all(tensors[0] == expected).item<bool>());
}

TEST(Gpu, MessagesSumInTheTree) {
  if ((world().size() & (world().size() - 1)) != 0) GTEST_SKIP() << "needs a power of two of ranks";
  at::manual_seed(static_cast<uint64_t>(world().rank()) + 1);
  at::Tensor on_host = at::randn({300'001});
  at::Tensor on_gpu = on_host.to(world().device());
  tree_sum(world(), on_host);
  tree_sum(world(), on_gpu);
  EXPECT_TRUE(at::equal(on_gpu.cpu(), on_host));
}

struct Small : torch::nn::Module {
  Small() {
    conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 8, 3).padding(1)));
    linear = register_module("linear", torch::nn::Linear(8 * 8 * 8, 10));
  }
  at::Tensor forward(const at::Tensor& x) { return linear->forward(conv->forward(x).relu().flatten(1)); }
  torch::nn::Conv2d conv{nullptr};
  torch::nn::Linear linear{nullptr};
};

at::Tensor images(int64_t step, int64_t part) {
  at::manual_seed(static_cast<uint64_t>(1000 * step + part));
  return at::randn({8, 3, 8, 8});
}

TEST(Gpu, DistributedDataParallelKeepsReplicasEqualAndLearnsAsOnTheCpu) {
  at::manual_seed(3);
  auto on_gpu = std::make_shared<Small>();
  at::manual_seed(3);
  auto on_cpu = std::make_shared<Small>();
  on_gpu->to(world().device());
  DistributedDataParallel gpu(world(), on_gpu, {.bucket_bytes = 4096});
  DistributedDataParallel cpu(world(), on_cpu, {.bucket_bytes = 4096});
  torch::optim::SGD gpu_optimizer(on_gpu->parameters(), torch::optim::SGDOptions(0.01).momentum(0.9));
  torch::optim::SGD cpu_optimizer(on_cpu->parameters(), torch::optim::SGDOptions(0.01).momentum(0.9));
  for (int64_t step = 0; step < 20; ++step) {
    const at::Tensor x = images(step, world().rank());
    gpu.zero_grad();
    gpu.forward(x.to(world().device())).square().mean().backward();
    gpu_optimizer.step();
    cpu.zero_grad();
    cpu.forward(x).square().mean().backward();
    cpu_optimizer.step();
  }
  audit_replicas(world(), state_dict(*on_gpu), 20);
  for (const auto& [name, value] : state_dict(*on_gpu)) {
    for (const auto& [other, reference] : state_dict(*on_cpu)) {
      if (name != other) continue;
      EXPECT_TRUE(at::allclose(value.cpu(), reference, 1e-3, 1e-4)) << name;
    }
  }
}

TEST(Gpu, VirtualRanksHoldOneState) {
  if ((world().size() & (world().size() - 1)) != 0 || world().size() > 8) GTEST_SKIP() << "needs 1, 2, 4 or 8 ranks";
  at::manual_seed(4);
  auto net = std::make_shared<Small>();
  net->to(world().device());
  VirtualRanks shards(world(), net, 8);
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.01).momentum(0.9));
  for (int64_t step = 0; step < 10; ++step) {
    shards.step(
        [&](int64_t shard) { net->forward(images(step, shard).to(world().device())).square().mean().backward(); });
    optimizer.step();
  }
  const std::string digest = audit_replicas(world(), state_dict(*net), 10);
  if (world().rank() == 0) fmt::print("virtual ranks on {} GPUs: {}\n", world().size(), digest);
}

}  // namespace
}  // namespace lockstep
