// Rank 0's values on all ranks, of every dtype; parameters each once; zeroed gradients; options.
#include "ddp/module_state.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <limits>

#include "agreed.h"
#include "lockstep/audit.h"
#include "lockstep/ddp.h"
#include "lockstep/error.h"
#include "lockstep/virtual_ranks.h"
#include "mpi_main.h"

namespace lockstep::module_state_test {
namespace {

using test::agreed_error;
using test::inputs;
using test::share;
using testing::HasSubstr;
using torch::nn::Linear;

std::vector<at::Tensor> of_all_dtypes(int64_t start) {
  std::vector<at::Tensor> tensors;
  for (const auto type :
       {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16, at::kBool, at::kByte, at::kChar, at::kShort, at::kInt,
        at::kLong, at::kUInt16, at::kUInt32, at::kUInt64, at::kComplexFloat, at::kComplexDouble, at::kFloat8_e4m3fn}) {
    tensors.push_back((at::arange(7) + start).to(type));
  }
  const at::Tensor table = at::arange(12, at::kFloat).reshape({3, 4}) + start;
  tensors.push_back(table.t());
  tensors.push_back(table.slice(1, 0, 4, 2));
  tensors.push_back(at::complex(table, table + 1).conj());
  tensors.push_back(at::_neg_view(table));
  tensors.push_back(at::scalar_tensor(start));
  tensors.push_back(at::empty({0}));
  tensors.emplace_back();
  return tensors;
}

TEST(ModuleState, EveryDtypeAndLayoutFollowsRankZeroInPiecesOfAnySize) {
  const auto expected = of_all_dtypes(1);
  for (const int64_t most_bytes : {int64_t{3}, int64_t{64}, int64_t{1} << 20}) {
    const auto tensors = of_all_dtypes(world().rank() + 1);
    std::vector<int64_t> versions;
    for (const at::Tensor& tensor : tensors) versions.push_back(tensor.defined() ? tensor._version() : 0);
    follow_rank_0(world(), tensors, most_bytes);
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (!tensors[i].defined()) continue;
      const auto plain = [](const at::Tensor& tensor) { return tensor.resolve_conj().resolve_neg().contiguous(); };
      const at::Tensor ours = plain(tensors[i]).view({-1});
      const at::Tensor theirs = plain(expected[i]).view({-1});
      EXPECT_TRUE(ours.numel() == 0 || at::equal(ours.view(at::kByte), theirs.view(at::kByte)))
          << i << " in pieces of " << most_bytes;
      EXPECT_EQ(tensors[i]._version(), versions[i]) << i;
    }
  }
}

struct WithExtra : torch::nn::Module {
  explicit WithExtra(const at::Tensor& buffer) {
    layer = register_module("layer", Linear(6, 3));
    extra = register_buffer("extra", buffer);
  }
  at::Tensor forward(const at::Tensor& x) { return layer->forward(x); }
  Linear layer{nullptr};
  at::Tensor extra;
};

TEST(ModuleState, SparseAndExpandedTensorsAreRefusedByNameOnAllRanks) {
  const auto message = [](const at::Tensor& buffer) {
    const auto net = std::make_shared<WithExtra>(buffer);
    const auto of_ddp =
        agreed_error(ExitCode::usage, 0, [&] { DistributedDataParallel<WithExtra>(world(), net).zero_grad(); });
    if (world().size() != 3) {
      EXPECT_EQ(agreed_error(ExitCode::usage, 0, [&] { VirtualRanks(world(), net, 4); }), of_ddp);
    }
    return of_ddp;
  };
  EXPECT_THAT(message(at::ones({1, 3}).expand({4, 3})), HasSubstr("buffer extra is expanded"));
  EXPECT_THAT(message(at::eye(3).to_sparse()), HasSubstr("buffer extra is not dense"));
  EXPECT_THAT(message(at::quantize_per_tensor(at::ones({2}), 0.1, 0, at::kQInt8)), HasSubstr("extra is quantized"));
}

TEST(ModuleState, ASparseGradientIsRefusedByName) {
  const auto refused = [](const std::function<void()>& work) -> std::string {
    try {
      work();
    } catch (const Error& error) {
      EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(ExitCode::usage));
      EXPECT_THAT(error.hint(), HasSubstr("sparse(true)"));
      return error.what();
    }
    return "nothing was thrown";
  };
  const auto net = std::make_shared<torch::nn::EmbeddingImpl>(torch::nn::EmbeddingOptions(10, 6).sparse(true));
  {
    DistributedDataParallel ddp(world(), net);
    EXPECT_THAT(refused([&] { ddp.forward(at::arange(3)).sum().backward(); }), HasSubstr("the gradient of weight"));
  }
  net->zero_grad();
  if (world().size() == 3) return;
  VirtualRanks shards(world(), net, 4);
  EXPECT_THAT(refused([&] { shards.step([&](int64_t) { net->forward(at::arange(3)).sum().backward(); }); }),
              HasSubstr("the gradient of weight"));
}

struct Tied : torch::nn::Module {
  Tied() {
    first = register_module("first", Linear(6, 6));
    again = register_module("again", first);
    last = register_module("last", Linear(6, 3));
    last->bias.requires_grad_(false);
  }
  at::Tensor forward(const at::Tensor& x) { return last->forward(again->forward(first->forward(x).tanh())); }
  Linear first{nullptr}, again{nullptr}, last{nullptr};
};

TEST(ModuleState, ParametersThatLayersShareAreThereOnce) {
  const auto net = std::make_shared<Tied>();
  DistributedDataParallel ddp(world(), net);
  ASSERT_EQ(net->parameters().size(), 6);
  ASSERT_EQ(ddp.parameters().size(), 4);
  std::vector<std::string> names;
  for (const auto& [name, parameter] : ddp.named_parameters()) names.push_back(name);
  EXPECT_THAT(names, testing::ElementsAre("first.weight", "first.bias", "last.weight", "last.bias"));
  EXPECT_TRUE(ddp.parameters()[3].is_same(net->last->bias));
}

// Trains three steps; `forget` is the way in which gradients are zeroed, before or after forward.
std::vector<at::Tensor> trained(
    const std::function<void(DistributedDataParallel<Tied>&, torch::optim::Optimizer&)>& forget, bool before) {
  at::manual_seed(5);
  const auto net = std::make_shared<Tied>();
  DistributedDataParallel ddp(world(), net, {.bucket_bytes = 100});
  torch::optim::SGD optimizer(ddp.parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  for (int step = 0; step < 3; ++step) {
    if (before) forget(ddp, optimizer);
    const at::Tensor loss = ddp.forward(share(inputs())).square().mean();
    if (!before) forget(ddp, optimizer);
    loss.backward();
    optimizer.step();
  }
  return ddp.parameters();
}

TEST(ModuleState, EveryWayToZeroGradientsTrainsAlike) {
  using Forget = std::function<void(DistributedDataParallel<Tied>&, torch::optim::Optimizer&)>;
  const std::vector<Forget> ways = {
      [](auto&, auto& optimizer) { optimizer.zero_grad(/*set_to_none=*/true); },
      [](auto&, auto& optimizer) { optimizer.zero_grad(/*set_to_none=*/false); },
      [](auto& ddp, auto&) { ddp.module()->zero_grad(/*set_to_none=*/true); },
      [](auto& ddp, auto&) { ddp.module()->zero_grad(/*set_to_none=*/false); },
  };
  const auto expected = trained([](auto& ddp, auto&) { ddp.zero_grad(); }, false);
  for (size_t way = 0; way < ways.size(); ++way) {
    for (const bool before : {false, true}) {
      const auto ours = trained(ways[way], before);
      // Gradients that lie in the buckets already are divided there, new ones are multiplied by 1/ranks.
      const bool same_bits = world().size() != 3 || way % 2 == 0;
      for (size_t i = 0; i < ours.size(); ++i) {
        EXPECT_TRUE(same_bits ? at::equal(ours[i], expected[i]) : at::allclose(ours[i], expected[i], 1e-5, 1e-6))
            << way << ", " << i;
      }
    }
  }
}

TEST(ModuleState, AnOptimizerZeroesTheGradientsOfVirtualRanks) {
  if (world().size() == 3) return;
  const auto net = std::make_shared<Tied>();
  VirtualRanks shards(world(), net, 4);
  torch::optim::SGD optimizer(parameters(*net), 0.1);
  for (int step = 0; step < 2; ++step) {
    shards.step([&](int64_t shard) { net->forward(inputs().narrow(0, shard * 3, 3)).square().sum().backward(); });
    optimizer.step();
    EXPECT_NO_THROW(optimizer.zero_grad());
  }
}

TEST(ModuleState, AModuleIsNotConvertedUnderVirtualRanks) {
  if (world().size() == 3) return;
  const auto net = std::make_shared<Tied>();
  VirtualRanks shards(world(), net, 4);
  net->to(at::kDouble);
  EXPECT_THROW(shards.step([](int64_t) {}), Error);
}

struct Counted : torch::nn::Module {
  Counted() { norm = register_module("norm", torch::nn::BatchNorm1d(6)); }
  at::Tensor forward(const at::Tensor& x) { return norm->forward(x); }
  torch::nn::BatchNorm1d norm{nullptr};
};

TEST(ModuleState, BuffersStayEachRanksOwnWithoutBroadcastBuffers) {
  const auto net = std::make_shared<Counted>();
  net->norm->running_mean.fill_(world().rank());
  DistributedDataParallel ddp(world(), net, {.broadcast_buffers = false});
  for (int step = 0; step < 2; ++step) ddp.forward(inputs()).sum().backward();
  Counted alone;
  alone.norm->running_mean.fill_(world().rank());
  for (int step = 0; step < 2; ++step) alone.forward(inputs());
  EXPECT_TRUE(at::equal(net->norm->running_mean, alone.norm->running_mean));
  ddp.sync_buffers();
  std::vector<double> sums = {net->norm->running_mean.sum().item<double>()};
  const double mine = sums[0];
  world().sum(sums);
  EXPECT_NEAR(sums[0] / world().size(), mine, 1e-6);
}

TEST(ModuleState, AnAuditOfBatchNormsTellsOfSyncBuffers) {
  if (test::alone()) return;
  const auto net = std::make_shared<Counted>();
  DistributedDataParallel ddp(world(), net);
  ddp.forward(inputs() + world().rank()).sum().backward();
  try {
    audit_replicas(world(), state_dict(*net), 1);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const AgreedError& error) {
    EXPECT_THAT(error.what(), HasSubstr("norm.running_mean"));
    EXPECT_THAT(error.hint(), HasSubstr("call sync_buffers()"));
    EXPECT_THAT(error.hint(), testing::Not(HasSubstr("memory")));
  }
  ddp.sync_buffers();
  EXPECT_NO_THROW(audit_replicas(world(), state_dict(*net), 1));
}

TEST(ModuleState, GradientsThatAreNotFiniteEndAllRanksWhereAskedFor) {
  for (const auto wire : {DdpOptions::Wire::fp32, DdpOptions::Wire::bf16}) {
    for (const bool guarded : {false, true}) {
      const auto net = std::make_shared<Tied>();
      DistributedDataParallel ddp(world(), net,
                                  {.bucket_bytes = 100, .require_finite_gradients = guarded, .wire = wire});
      const auto step = [&](double factor) { (ddp.forward(share(inputs())).sum() * factor).backward(); };
      EXPECT_NO_THROW(step(1));
      ddp.zero_grad();
      const double factor = world().rank() == test::last() ? std::numeric_limits<double>::quiet_NaN() : 1;
      if (!guarded) {
        EXPECT_NO_THROW(step(factor));
        continue;
      }
      EXPECT_THAT(agreed_error(ExitCode::diverged, 0, [&] { step(factor); }),
                  HasSubstr("the averaged gradient of first.weight is not finite"));
    }
  }
}

TEST(ModuleState, FiniteGradientsWhoseSumIsNotPassTheGuard) {
  const auto net = std::make_shared<torch::nn::LinearImpl>(6, 3);
  DistributedDataParallel ddp(world(), net, {.require_finite_gradients = true});
  EXPECT_NO_THROW((ddp.forward(at::ones({1, 6})).sum() * 3e38).backward());
  EXPECT_GT(net->weight.grad().min().item<double>(), 2.9e38);
}

TEST(ModuleState, WhatCannotBeWrappedIsRefusedOnAllRanks) {
  const auto net = std::make_shared<Tied>();
  const auto wrap = [&](const std::shared_ptr<Tied>& module, int64_t bucket_bytes) {
    DistributedDataParallel ddp(world(), module, {.bucket_bytes = bucket_bytes});
  };
  for (const int64_t bytes : {0, -1}) {
    EXPECT_THAT(agreed_error(ExitCode::usage, 0, [&] { wrap(net, bytes); }), HasSubstr("bucket_bytes is"));
  }
  EXPECT_THAT(agreed_error(ExitCode::usage, 0, [&] { wrap(nullptr, 1); }), HasSubstr("was given no module"));
  if (world().size() != 3) {
    EXPECT_THAT(agreed_error(ExitCode::usage, 0, [&] { VirtualRanks(world(), nullptr, 4); }), HasSubstr("no module"));
  }
  if (test::alone()) return;
  const bool odd = world().rank() == test::last();
  EXPECT_THAT(agreed_error(ExitCode::launch, test::last(), [&] { wrap(odd ? nullptr : net, 1); }),
              HasSubstr("no module"));
}

}  // namespace
}  // namespace lockstep::module_state_test
