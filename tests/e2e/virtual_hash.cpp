// Trains a network of its own with four virtual ranks on CIFAR-10, and rank 0 prints the digest of all that it holds:
//   virtual_hash DATA_DIR batch_norm|bfloat16 STEPS
#include <ATen/Context.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/max_pool2d.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "lockstep/audit.h"
#include "lockstep/cifar10.h"
#include "lockstep/sampler.h"
#include "lockstep/virtual_ranks.h"
#include "lockstep/weights.h"
#include "lockstep/world.h"

namespace {

struct Small : torch::nn::Module {
  explicit Small(bool with_norm) {
    first = register_module("first", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 16, 3).padding(1)));
    if (with_norm) norm = register_module("norm", torch::nn::BatchNorm2d(16));
    second = register_module("second", torch::nn::Conv2d(torch::nn::Conv2dOptions(16, 16, 3).padding(1)));
    last = register_module("last", torch::nn::Linear(16 * 4 * 4, 10));
  }
  at::Tensor forward(const at::Tensor& images) {
    at::Tensor x = at::max_pool2d(first->forward(images), {4, 4});
    if (!norm.is_empty()) x = norm->forward(x);
    x = at::max_pool2d(second->forward(x.relu()), {2, 2}).relu();
    return last->forward(x.flatten(1));
  }
  torch::nn::Conv2d first{nullptr}, second{nullptr};
  torch::nn::BatchNorm2d norm{nullptr};
  torch::nn::Linear last{nullptr};
};

}  // namespace

int main(int argc, char** argv) {
  using namespace lockstep;
  if (argc != 4) return 64;
  World world({.threads = 1});
  const auto train_set = Cifar10::open(Cifar10::find(argv[1]), Cifar10::Split::train);
  const bool narrow = std::string(argv[2]) == "bfloat16";
  constexpr int64_t kShards = 4;
  constexpr int64_t kBatch = 16;

  at::manual_seed(1);
  auto net = std::make_shared<Small>(!narrow);
  if (narrow) net->to(at::kBFloat16);
  VirtualRanks shards(world, net, kShards);
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.02).momentum(0.9));
  const auto order = DistributedSampler({.size = train_set.size(), .seed = 3}).indices(0);

  double loss = 0;
  at::Tensor images, labels;
  for (int64_t step = 0; step < std::atoll(argv[3]); ++step) {
    std::vector<double> losses(kShards, 0.0);
    shards.step([&](int64_t shard) {
      constexpr auto kShare = static_cast<size_t>(kBatch / kShards);
      const auto first = static_cast<size_t>(step * kBatch + shard * (kBatch / kShards));
      train_set.batch(std::span(order).subspan(first, kShare), images, labels);
      const at::Tensor logits = net->forward(narrow ? images.to(at::kBFloat16) : images).to(at::kFloat);
      const at::Tensor mean = at::cross_entropy_loss(logits, labels) / static_cast<double>(kShards);
      losses[static_cast<size_t>(shard)] = mean.item<float>();
      mean.backward();
    });
    optimizer.step();
    world.sum(losses);
    loss = ((losses[0] + losses[1]) + (losses[2] + losses[3]));
  }
  shards.sync_buffers();
  const std::string digest = audit_replicas(world, state_dict(*net), 0);
  if (world.rank() == 0) std::printf("%s loss %.17g\n", digest.c_str(), loss);
  return 0;
}
