#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "comm/group.h"
#include "lockstep/ddp.h"
#include "mpi_main.h"

namespace lockstep {
namespace {

using test::inputs;
using test::share;

struct Mlp : torch::nn::Module {
  Mlp() {
    first = register_module("first", torch::nn::Linear(6, 16));
    second = register_module("second", torch::nn::Linear(16, 3));
  }
  at::Tensor forward(const at::Tensor& x) { return second->forward(first->forward(x).relu()); }
  torch::nn::Linear first{nullptr};
  torch::nn::Linear second{nullptr};
};

at::Tensor targets() { return at::arange(12, at::kLong).remainder(3); }

TEST(DistributedDataParallel, StartsFromTheValuesOfRankZero) {
  at::manual_seed(static_cast<uint64_t>(world().rank()));  // every rank draws its own
  auto net = std::make_shared<Mlp>();
  DistributedDataParallel ddp(world(), net);
  at::manual_seed(0);
  const Mlp reference;
  EXPECT_TRUE(at::equal(net->first->weight, reference.first->weight));
  EXPECT_TRUE(at::equal(net->second->bias, reference.second->bias));
}

TEST(DistributedDataParallel, TrainsAsOneProcessWithTheWholeBatch) {
  at::manual_seed(5);
  auto net = std::make_shared<Mlp>();
  at::manual_seed(5);
  Mlp alone;
  DistributedDataParallel ddp(world(), net, {.bucket_bytes = 100});  // several buckets
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  torch::optim::SGD reference(alone.parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  for (int step = 0; step < 10; ++step) {
    const at::Tensor loss = at::cross_entropy_loss(ddp.forward(share(inputs())), share(targets()));
    ddp.zero_grad();
    loss.backward();
    optimizer.step();
    reference.zero_grad();
    at::cross_entropy_loss(alone.forward(inputs()), targets()).backward();
    reference.step();
  }
  const auto ours = net->parameters();
  const auto theirs = alone.parameters();
  for (size_t i = 0; i < ours.size(); ++i) EXPECT_TRUE(at::allclose(ours[i], theirs[i], 1e-5, 1e-6)) << i;
}

// Of this process's memory that others map, as the kernel lists it.
bool others_can_read(const void* data) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    unsigned long begin = 0;
    unsigned long end = 0;
    if (line.find("memfd:lockstep") == std::string::npos || line.find(" rw-s ") == std::string::npos) continue;
    if (std::sscanf(line.c_str(), "%lx-%lx", &begin, &end) != 2) continue;
    const auto at = reinterpret_cast<uintptr_t>(data);
    if (begin <= at && at < end) return true;
  }
  return false;
}

TEST(DistributedDataParallel, GradientsLieWhereOtherRanksReadThem) {
  const at::Tensor any = at::ones({3});
  share_storage(world(), any);
  EXPECT_TRUE(at::equal(any, at::ones({3})));
  if (test::nothing_to_share()) GTEST_SKIP() << test::kNothingToShare;
  EXPECT_TRUE(others_can_read(any.data_ptr()));
  auto net = std::make_shared<Mlp>();
  DistributedDataParallel ddp(world(), net, {.bucket_bytes = 100});
  for (int step = 0; step < 3; ++step) {  // buckets are made anew after the first
    ddp.zero_grad();
    ddp.forward(share(inputs())).sum().backward();
    for (const at::Tensor& parameter : net->parameters()) EXPECT_TRUE(others_can_read(parameter.grad().data_ptr()));
  }
}

// A run that goes on from a checkpoint builds its buckets anew.
TEST(DistributedDataParallel, BitsDoNotDependOnTheBuckets) {
  const auto trained = [](int64_t bucket_bytes) {
    at::manual_seed(5);
    auto net = std::make_shared<Mlp>();
    DistributedDataParallel ddp(world(), net, {.bucket_bytes = bucket_bytes});
    torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1));
    for (int step = 0; step < 3; ++step) {
      const at::Tensor loss = at::cross_entropy_loss(ddp.forward(share(inputs())), share(targets()));
      ddp.zero_grad();
      loss.backward();
      optimizer.step();
    }
    return net;
  };
  const auto one = trained(1'000'000);
  for (const int64_t bucket_bytes : {1, 100, 500}) {
    const auto several = trained(bucket_bytes);
    for (size_t i = 0; i < one->parameters().size(); ++i) {
      EXPECT_TRUE(at::equal(one->parameters()[i], several->parameters()[i])) << bucket_bytes << ": parameter " << i;
    }
  }
}

TEST(DistributedDataParallel, GradientsAreTheMeanOverRanks) {
  auto net = std::make_shared<Mlp>();
  DistributedDataParallel ddp(world(), net);
  const at::Tensor output = ddp.forward(at::full({1, 6}, static_cast<float>(world().rank())));
  output.sum().backward();
  // d(sum)/d(second.bias) is 1 on every rank, and so is the mean.
  EXPECT_TRUE(at::equal(net->second->bias.grad(), at::ones({3})));
}

struct Normed : torch::nn::Module {
  Normed() { norm = register_module("norm", torch::nn::BatchNorm1d(6)); }
  at::Tensor forward(const at::Tensor& x) { return norm->forward(x); }
  torch::nn::BatchNorm1d norm{nullptr};
};

TEST(DistributedDataParallel, BuffersFollowRankZero) {
  auto net = std::make_shared<Normed>();
  DistributedDataParallel ddp(world(), net);
  for (int step = 0; step < 2; ++step) {
    ddp.forward(inputs() + world().rank()).sum().backward();
    ddp.zero_grad();
  }
  // Rank 0's statistics after the first step reached all before the second.
  ddp.forward(inputs()).sum().backward();
  std::vector<double> mean = {net->norm->running_mean.sum().item<double>()};
  const double mine = mean[0];
  world().sum(mean);
  EXPECT_NEAR(mean[0] / world().size(), mine, 1e-6);
}

TEST(DistributedDataParallel, WithoutGradientModeForwardIsTheModules) {
  auto net = std::make_shared<Mlp>();
  DistributedDataParallel ddp(world(), net);
  const at::NoGradGuard guard;
  EXPECT_TRUE(at::equal(ddp.forward(inputs()), net->forward(inputs())));
}

}  // namespace
}  // namespace lockstep
