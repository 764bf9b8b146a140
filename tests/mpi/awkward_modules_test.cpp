// Modules that are not a plain chain of layers, each against one process with the whole batch.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include "lockstep/ddp.h"
#include "lockstep/error.h"
#include "lockstep/virtual_ranks.h"
#include "mpi_main.h"

namespace lockstep {
namespace {

using test::inputs;
using test::share;
using torch::nn::Linear;

// Ten steps of both with momentum, then the parameters are compared. The loss is the mean of squares of the output.
template <typename Module>
void expect_as_one_process(const at::Tensor& rows, DdpOptions options = {.bucket_bytes = 100},
                           double tolerance = 1e-5) {
  for (const auto overlap : {DdpOptions::Overlap::off, DdpOptions::Overlap::on}) {
    options.overlap = overlap;
    at::manual_seed(5);
    auto net = std::make_shared<Module>();
    at::manual_seed(5);
    Module alone;
    DistributedDataParallel ddp(world(), net, options);
    for (int step = 0; step < 10; ++step) {
      ddp.zero_grad();
      ddp.forward(share(rows)).square().mean().backward();
      alone.zero_grad();
      alone.forward(rows).square().mean().backward();
      const at::NoGradGuard no_grad;
      auto ours = net->parameters();
      auto theirs = alone.parameters();
      for (size_t i = 0; i < ours.size(); ++i) {
        ASSERT_EQ(ours[i].grad().defined(), theirs[i].grad().defined()) << i;
        if (!ours[i].grad().defined()) continue;
        EXPECT_TRUE(at::allclose(ours[i].grad(), theirs[i].grad(), tolerance, tolerance))
            << "step " << step << ": " << i;
        if (!ours[i].requires_grad()) continue;
        ours[i].sub_(ours[i].grad(), 0.1);
        theirs[i].sub_(theirs[i].grad(), 0.1);
        // A parameter that is registered twice has been moved twice, here and there.
      }
    }
  }
}

struct Shared : torch::nn::Module {  // one layer under two names, used twice
  Shared() {
    once = register_module("once", Linear(6, 6));
    again = register_module("again", once);
  }
  at::Tensor forward(const at::Tensor& x) { return again->forward(once->forward(x).tanh()); }
  Linear once{nullptr}, again{nullptr};
};

TEST(AwkwardModules, ParametersSharedBetweenLayers) { expect_as_one_process<Shared>(inputs()); }

struct Frozen : torch::nn::Module {
  Frozen() {
    frozen = register_module("frozen", Linear(6, 6));
    trained = register_module("trained", Linear(6, 3));
    for (auto& parameter : frozen->parameters()) parameter.requires_grad_(false);
  }
  at::Tensor forward(const at::Tensor& x) { return trained->forward(frozen->forward(x)); }
  Linear frozen{nullptr}, trained{nullptr};
};

TEST(AwkwardModules, FrozenParameters) { expect_as_one_process<Frozen>(inputs()); }

struct Mixed : torch::nn::Module {  // float32, float64 and bfloat16
  Mixed() {
    single = register_module("single", Linear(6, 6));
    wide = register_module("wide", Linear(6, 6));
    wide->to(at::kDouble);
    narrow = register_module("narrow", Linear(6, 3));
    narrow->to(at::kBFloat16);
  }
  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor middle = wide->forward(single->forward(x).to(at::kDouble));
    return narrow->forward(middle.to(at::kBFloat16)).to(at::kFloat);
  }
  Linear single{nullptr}, wide{nullptr}, narrow{nullptr};
};

TEST(AwkwardModules, SeveralTypes) { expect_as_one_process<Mixed>(inputs(), {.bucket_bytes = 100}, 2e-2); }

struct Strided : torch::nn::Module {  // channels_last and transposed weights
  Strided() {
    conv = register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(2, 4, 3)));
    conv->weight.set_data(conv->weight.contiguous(at::MemoryFormat::ChannelsLast));
    transposed = register_parameter("transposed", (at::randn({4, 7}) * 0.2).t().requires_grad_());
    sliced = register_parameter("sliced", (at::randn({7, 6}) * 0.2).slice(1, 0, 6, 2).requires_grad_());
  }
  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor images = x.unsqueeze(1).unsqueeze(1).expand({-1, 2, 6, 6});
    return at::matmul(at::matmul(conv->forward(images).mean({2, 3}), transposed.t()), sliced);
  }
  torch::nn::Conv2d conv{nullptr};
  at::Tensor transposed, sliced;
};

TEST(AwkwardModules, ParametersThatAreNotContiguous) {
  expect_as_one_process<Strided>(inputs());
  auto net = std::make_shared<Strided>();
  DistributedDataParallel ddp(world(), net);
  ddp.forward(share(inputs())).sum().backward();
  EXPECT_EQ(net->conv->weight.grad().strides(), net->conv->weight.strides()) << "the gradient has another layout";
}

TEST(AwkwardModules, NothingToTrain) {
  auto net = std::make_shared<Linear::Impl>(6, 3);
  for (auto& parameter : net->parameters()) parameter.requires_grad_(false);
  at::manual_seed(static_cast<uint64_t>(world().rank()));
  DistributedDataParallel ddp(world(), net);
  ddp.zero_grad();
  at::Tensor x = inputs().requires_grad_();
  ddp.forward(x).sum().backward();
  EXPECT_TRUE(x.grad().defined());
}

struct TwoHeads : torch::nn::Module {
  TwoHeads() {
    even = register_module("even", Linear(6, 2));
    odd = register_module("odd", Linear(6, 2));
  }
  at::Tensor forward(const at::Tensor& x, bool use_odd) { return use_odd ? odd->forward(x) : even->forward(x); }
  Linear even{nullptr}, odd{nullptr};
};

TEST(AwkwardModules, ASkippedParameterIsNamedAtOnce) {
  auto net = std::make_shared<TwoHeads>();
  DistributedDataParallel ddp(world(), net, {.bucket_bytes = 1});
  // All ranks skip it, so that none is left waiting here; one that skips alone fails in the same way, at the same
  // place.
  try {
    ddp.forward(inputs(), true).sum().backward();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("even.weight (and 1 more of 4)"), std::string::npos) << error.what();
    EXPECT_NE(error.hint().find("find_unused_parameters"), std::string::npos);
  }
}

TEST(AwkwardModules, SkippedParametersAreAveragedWhenAllowed) {
  auto net = std::make_shared<TwoHeads>();
  DistributedDataParallel ddp(world(), net, {.bucket_bytes = 1, .find_unused_parameters = true});
  for (int step = 0; step < 4; ++step) {
    ddp.zero_grad();
    ddp.forward(at::ones({1, 6}), (step + world().rank()) % 2 == 1).sum().backward();
    int64_t odd = 0;
    for (int rank = 0; rank < world().size(); ++rank) odd += (step + rank) % 2;
    const double part = static_cast<double>(odd) / world().size();
    if (odd > 0) {
      EXPECT_NEAR(net->odd->bias.grad()[0].item<double>(), part, 1e-6);
    }
    if (odd < world().size()) {
      EXPECT_NEAR(net->even->bias.grad()[0].item<double>(), 1 - part, 1e-6);
    }
  }
}

struct Pieces : torch::nn::Module {  // its output is no tensor
  Pieces() { layer = register_module("layer", Linear(6, 2)); }
  std::pair<at::Tensor, std::map<std::string, std::optional<at::Tensor>>> forward(const at::Tensor& x) {
    const at::Tensor y = layer->forward(x);
    return {y.detach(), {{"logits", y}, {"nothing", std::nullopt}}};
  }
  Linear layer{nullptr};
};

TEST(AwkwardModules, OutputsInPairsMapsAndOptionals) {
  auto net = std::make_shared<Pieces>();
  DistributedDataParallel ddp(world(), net);
  ddp.forward(at::full({1, 6}, static_cast<float>(world().rank()))).second.at("logits")->sum().backward();
  EXPECT_NEAR(net->layer->weight.grad()[0][0].item<double>(), (world().size() - 1) / 2.0, 1e-6);
}

TEST(AwkwardModules, SeveralPassesBeforeAStepAreSentOnce) {
  at::manual_seed(5);
  auto net = std::make_shared<Frozen>();
  DistributedDataParallel ddp(world(), net, {.bucket_bytes = 100});
  const at::Tensor mine = share(inputs());
  for (int step = 0; step < 3; ++step) {
    ddp.zero_grad();
    {
      const auto guard = ddp.no_sync();
      (ddp.forward(mine.slice(0, 0, 1)).square().sum() / mine.size(0)).backward();
      std::vector<double> sums = {net->trained->bias.grad().sum().item<double>()};
      const double alone = sums[0];
      world().sum(sums);
      if (world().size() > 1) {
        EXPECT_GT(std::abs(sums[0] / world().size() - alone), 1e-6) << "it was averaged already";
      }
    }
    (ddp.forward(mine.slice(0, 1)).square().sum() / mine.size(0)).backward();
    at::manual_seed(5);
    Frozen alone;
    (alone.forward(inputs()).square().sum() / 12).backward();
    EXPECT_TRUE(at::allclose(net->trained->weight.grad(), alone.trained->weight.grad(), 1e-5, 1e-6)) << step;
  }
}

TEST(AwkwardModules, UnequalSharesGiveTheGlobalMean) {
  // Rank r has r + 1 rows.
  const int64_t all = world().size() * (world().size() + 1) / 2;
  const at::Tensor rows = at::arange(all * 6, at::kFloat).reshape({all, 6}).cos();
  const int64_t first = world().rank() * (world().rank() + 1) / 2;
  const int64_t mine = world().rank() + 1;
  at::manual_seed(5);
  auto net = std::make_shared<Frozen>();
  at::manual_seed(5);
  Frozen alone;
  DistributedDataParallel ddp(world(), net);
  const at::Tensor loss = ddp.forward(rows.narrow(0, first, mine)).square().mean();
  (loss * share_of_mean(mine, all, world().size())).backward();
  alone.forward(rows).square().mean().backward();
  EXPECT_TRUE(at::allclose(net->trained->weight.grad(), alone.trained->weight.grad(), 1e-5, 1e-6));
}

TEST(AwkwardModules, RanksWithDifferentModulesAreToldTheFirstDifference) {
  if (world().size() == 1) return;
  auto net = std::make_shared<Linear::Impl>(6, world().rank() == world().size() - 1 ? 4 : 3);
  try {
    DistributedDataParallel ddp(world(), net);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const AgreedError& error) {
    EXPECT_EQ(error.code(), ExitCode::launch);
    for (const char* said : {"weight [4, 6]", "weight [3, 6]"}) {
      EXPECT_NE(std::string(error.what()).find(said), std::string::npos) << error.what();
    }
    EXPECT_NE(std::string(error.what()).find(std::to_string(world().size() - 1)), std::string::npos);
  }
}

TEST(AwkwardModules, Bfloat16OnTheWayKeepsAboutTwoDigits) {
  expect_as_one_process<Frozen>(inputs(), {.bucket_bytes = 100, .wire = DdpOptions::Wire::bf16}, 3e-2);
}

struct NormedAndShared : torch::nn::Module {
  NormedAndShared() {
    first = register_module("first", Linear(6, 4));
    norm = register_module("norm", torch::nn::BatchNorm1d(4));
    shared = register_module("shared", first);
  }
  at::Tensor forward(const at::Tensor& x) { return norm->forward(shared->forward(x)); }
  Linear first{nullptr}, shared{nullptr};
  torch::nn::BatchNorm1d norm{nullptr};
};

TEST(VirtualRanks, GiveTheBitsOfOneRankThatAddsTheSameTree) {
  if (world().size() == 3) return;
  const auto loss_of = [](NormedAndShared& net, int64_t shard) {
    return net.forward(inputs().narrow(0, shard * 3, 3)).square().sum() / 12;
  };
  at::manual_seed(5);
  auto net = std::make_shared<NormedAndShared>();
  VirtualRanks shards(world(), net, 4);
  at::manual_seed(5);
  NormedAndShared alone;
  const at::Tensor start = alone.norm->running_mean.clone();
  for (int step = 0; step < 3; ++step) {
    shards.step([&](int64_t shard) { loss_of(*net, shard).backward(); });
    // By hand: four gradients, two sums, one sum; the statistics are those of shard 0.
    std::vector<std::vector<at::Tensor>> gradients;
    const at::Tensor before = alone.norm->running_mean.clone();
    at::Tensor after;
    for (int64_t shard = 0; shard < 4; ++shard) {
      alone.zero_grad();
      alone.norm->running_mean.copy_(before);
      loss_of(alone, shard).backward();
      if (shard == 0) after = alone.norm->running_mean.clone();
      gradients.emplace_back();
      for (const auto& parameter : {alone.first->weight, alone.first->bias, alone.norm->weight, alone.norm->bias}) {
        gradients.back().push_back(parameter.grad().clone());
      }
    }
    alone.norm->running_mean.copy_(after);
    const std::vector<at::Tensor> ours = {net->first->weight, net->first->bias, net->norm->weight, net->norm->bias};
    for (size_t i = 0; i < ours.size(); ++i) {
      const at::Tensor expected = (gradients[0][i] + gradients[1][i]) + (gradients[2][i] + gradients[3][i]);
      EXPECT_TRUE(at::equal(ours[i].grad(), expected)) << "step " << step << ", " << i;
    }
  }
  shards.sync_buffers();
  EXPECT_TRUE(at::equal(net->norm->running_mean, alone.norm->running_mean));
}

TEST(VirtualRanks, RefuseWhatTheyCannotDeal) {
  auto net = std::make_shared<Linear::Impl>(6, 3);
  EXPECT_THROW(VirtualRanks(world(), net, 6), Error);
  if (world().size() > 1) {
    EXPECT_THROW(VirtualRanks(world(), net, 1), Error);
  }
}

}  // namespace
}  // namespace lockstep
