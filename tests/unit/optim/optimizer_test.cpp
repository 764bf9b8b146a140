#include "optim/optimizer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include "lockstep/error.h"
#include "lockstep/model.h"
#include "lockstep/net.h"
#include "optim/schedule.h"

namespace lockstep {
namespace {

void give_gradients(Net& net, int64_t seed) {
  at::manual_seed(static_cast<uint64_t>(seed));
  for (at::Tensor& parameter : net.parameters()) {
    if (parameter.requires_grad()) parameter.mutable_grad() = at::randn(parameter.sizes());
  }
}

std::shared_ptr<Net> net_of(const std::string& name) {
  at::manual_seed(0);
  return make_net(name);
}

bool same_parameters(const Net& a, const Net& b) {
  const auto of_a = a.parameters();
  const auto of_b = b.parameters();
  for (size_t i = 0; i < of_a.size(); ++i) {
    if (!at::equal(of_a[i], of_b[i])) return false;
  }
  return true;
}

Settings muon_settings() {
  Settings settings;
  settings.optim_name = "muon";
  settings.optim_lr = 0.2;
  settings.optim_momentum = 0.6;
  settings.optim_nesterov = true;
  settings.optim_weight_decay = 4e-3;
  settings.optim_schedule = "linear";
  settings.optim_bias_lr = 0.1;
  settings.optim_head_lr = 0.5;
  settings.optim_sgd_momentum = 0.85;
  settings.optim_whiten_epochs = 1;
  return settings;
}

TEST(Optimizer, SgdHasTheBitsOfLibTorchsAtTheScheduledRate) {
  Settings settings;
  settings.optim_momentum = 0.9;
  settings.optim_nesterov = true;
  settings.optim_weight_decay = 5e-4;
  settings.optim_schedule = "triangular";
  const auto net = net_of("sjnet");
  const auto twin = net_of("sjnet");
  Optimizer optimizer(settings, *net, 5);
  torch::optim::SGD sgd(twin->parameters(),
                        torch::optim::SGDOptions(0.01).momentum(0.9).nesterov(true).weight_decay(5e-4));
  for (int64_t step = 1; step <= 10; ++step) {
    give_gradients(*net, step);
    give_gradients(*twin, step);
    const double lr = 0.01 * share_of_peak(ScheduleShape::triangular, step, 10, 0);
    sgd.param_groups()[0].options().set_lr(lr);
    sgd.step();
    optimizer.step(step, 10);
    EXPECT_EQ(optimizer.lr(), lr);
    ASSERT_TRUE(same_parameters(*net, *twin)) << step;
  }
}

TEST(Optimizer, WhatItKeepsTakenOverGivesTheSameSteps) {
  for (const char* name : {"sgd", "muon"}) {
    Settings settings = muon_settings();
    settings.optim_name = name;
    const auto net = net_of("sjnet");
    Optimizer first(settings, *net, 5);
    give_gradients(*net, 1);
    first.step(1, 10);
    const auto twin = net_of("sjnet");
    {
      const at::NoGradGuard no_grad;
      for (size_t i = 0; i < net->parameters().size(); ++i) twin->parameters()[i].copy_(net->parameters()[i]);
    }
    Optimizer second(settings, *twin, 5);
    second.load_state(first.state(), "a file");
    for (int64_t step = 2; step <= 4; ++step) {
      for (Net* of : {net.get(), twin.get()}) give_gradients(*of, step);
      first.step(step, 10);
      second.step(step, 10);
    }
    EXPECT_TRUE(same_parameters(*net, *twin)) << name;
  }
}

struct TwiceTheSameLayer : Net {
  TwiceTheSameLayer() {
    layer = register_module("layer", torch::nn::Linear(4, 4));
    again = register_module("again", layer);
  }
  at::Tensor forward(at::Tensor images) override { return again->forward(layer->forward(images)); }
  torch::nn::Linear layer{nullptr}, again{nullptr};
};

TEST(Optimizer, StepsAParameterThatLayersShareOnce) {
  for (const char* name : {"sgd", "muon"}) {
    Settings settings = muon_settings();
    settings.optim_name = name;
    settings.optim_ema = 0.5;
    TwiceTheSameLayer shared;
    TwiceTheSameLayer once;
    once.unregister_module("again");
    {
      const at::NoGradGuard no_grad;
      for (size_t i = 0; i < 2; ++i) once.parameters()[i].copy_(shared.parameters()[i]);
    }
    Optimizer first(settings, shared, 5);
    Optimizer second(settings, once, 5);
    for (int64_t step = 1; step <= 3; ++step) {
      for (Net* of : {static_cast<Net*>(&shared), static_cast<Net*>(&once)}) {
        for (at::Tensor& parameter : of->parameters()) parameter.mutable_grad() = at::full_like(parameter, 0.1);
      }
      first.step(step, 10);
      second.step(step, 10);
    }
    EXPECT_TRUE(at::equal(shared.layer->weight, once.layer->weight)) << name;
    ASSERT_EQ(first.state().size(), second.state().size()) << name;
    for (size_t i = 0; i < first.state().size(); ++i) {
      EXPECT_EQ(first.state()[i].first, second.state()[i].first);
      EXPECT_TRUE(at::equal(first.state()[i].second, second.state()[i].second)) << name << ", " << i;
    }
  }
}

TEST(Optimizer, KeepsAMomentumForEachTrainedParameterByItsName) {
  const auto net = net_of("airbench94");
  Optimizer optimizer(muon_settings(), *net, 5);
  EXPECT_TRUE(optimizer.state().empty());
  give_gradients(*net, 1);
  optimizer.step(1, 10);
  std::vector<std::string> expected;
  for (const auto& parameter : net->named_parameters()) {
    if (parameter.value().requires_grad()) expected.push_back(parameter.key() + ".momentum_buffer");
  }
  std::vector<std::string> found;
  for (const auto& [name, tensor] : optimizer.state()) found.push_back(name);
  EXPECT_EQ(found, expected);
}

TEST(Optimizer, RefusesTensorsOfAnotherNet) {
  const auto net = net_of("sjnet");
  Optimizer optimizer({}, *net, 5);
  const auto refused = [&](const std::string& name, const at::Tensor& tensor) {
    try {
      optimizer.load_state({{name, tensor}}, "a file");
    } catch (const Error& error) {
      return error.code() == ExitCode::damaged;
    }
    return false;
  };
  EXPECT_TRUE(refused("model.9.weight.momentum_buffer", at::zeros({1})));
  EXPECT_TRUE(refused("model.8.bias", at::zeros({10})));
  EXPECT_TRUE(refused("model.8.bias.momentum_buffer", at::zeros({11})));
  EXPECT_FALSE(refused("model.8.bias.momentum_buffer", at::zeros({10})));
}

// With gradients of zero what changes is what decays: weight_decay of it, in the first step of Nesterov's momentum
// (1 + momentum) times as much.
TEST(Optimizer, MuonDecaysBiasesAndHeadByTheSameShareWhateverTheirRates) {
  const auto net = net_of("airbench94");
  const at::NoGradGuard no_grad;
  const auto parameters = net->named_parameters();
  for (const char* name : {"group1.norm1.bias", "whiten.bias"}) parameters[name].detach().fill_(1);
  const at::Tensor head = parameters["head.weight"].detach().clone();
  for (at::Tensor& parameter : net->parameters()) parameter.mutable_grad() = at::zeros_like(parameter);
  Optimizer optimizer(muon_settings(), *net, 5);
  optimizer.step(1, 10);
  const double left = 1 - 4e-3 * 1.85;
  EXPECT_TRUE(at::allclose(parameters["group1.norm1.bias"], at::full({64}, left)));
  EXPECT_TRUE(at::allclose(parameters["whiten.bias"], at::full({24}, left)));
  EXPECT_TRUE(at::allclose(parameters["head.weight"], head * left));
}

TEST(Optimizer, TheWhiteningsBiasTrainsInTheFirstEpochsOnly) {
  const auto net = net_of("airbench94");
  Optimizer optimizer(muon_settings(), *net, 5);
  const auto parameters = net->named_parameters();
  for (const int64_t step : {4, 5, 6, 7}) {
    const at::Tensor whitening = parameters["whiten.bias"].detach().clone();
    const at::Tensor other = parameters["group1.norm1.bias"].detach().clone();
    give_gradients(*net, step);
    optimizer.step(step, 10);
    EXPECT_EQ(!at::equal(parameters["whiten.bias"], whitening), step <= 5) << step;
    EXPECT_FALSE(at::equal(parameters["group1.norm1.bias"], other)) << step;
  }
}

TEST(Optimizer, FrozenParametersStay) {
  for (const char* name : {"sgd", "muon"}) {
    Settings settings = muon_settings();
    settings.optim_name = name;
    const auto net = net_of("airbench94");
    const at::Tensor whitening = net->named_parameters()["whiten.weight"].detach().clone();
    Optimizer optimizer(settings, *net, 5);
    give_gradients(*net, 1);
    optimizer.step(1, 10);
    EXPECT_TRUE(at::equal(net->named_parameters()["whiten.weight"], whitening));
    EXPECT_TRUE(at::equal(net->named_parameters()["group2.norm1.weight"], at::ones({256})));
  }
}

TEST(Optimizer, AveragesWeightsOverTheStepsAndShowsThemForAWhile) {
  Settings settings;
  settings.optim_ema = 0.75;
  const auto net = net_of("airbench94");
  Optimizer optimizer(settings, *net, 5);
  const at::Tensor head = net->named_parameters()["head.weight"];
  { const Optimizer::Averaged before_the_first_step(optimizer); }
  at::Tensor expected;
  for (int64_t step = 1; step <= 3; ++step) {
    give_gradients(*net, step);
    optimizer.step(step, 10);
    const at::Tensor now = head.detach().clone();
    expected = step == 1 ? now : expected * 0.75 + now * 0.25;
  }
  const at::Tensor last = head.detach().clone();
  const void* memory = head.data_ptr();
  {
    const Optimizer::Averaged averaged(optimizer);
    EXPECT_TRUE(at::allclose(head, expected, 1e-5, 1e-7));
    EXPECT_EQ(head.data_ptr(), memory);
  }
  EXPECT_TRUE(at::equal(head, last));

  // What is kept goes on elsewhere.
  Optimizer other(settings, *net, 5);
  const NamedTensors kept = optimizer.state();
  other.load_state(kept, "here");
  const NamedTensors again = other.state();
  ASSERT_EQ(again.size(), kept.size());
  for (size_t i = 0; i < kept.size(); ++i) {
    EXPECT_EQ(again[i].first, kept[i].first);
    EXPECT_TRUE(at::equal(again[i].second, kept[i].second));
  }
}

}  // namespace
}  // namespace lockstep
