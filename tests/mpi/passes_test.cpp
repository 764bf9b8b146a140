// Which forward and backward passes average gradients, and which are refused, so that none stays a rank's own unseen.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/lbfgs.h>

#include <functional>

#include "lockstep/ddp.h"
#include "lockstep/error.h"
#include "mpi_main.h"

namespace lockstep::passes_test {
namespace {

using test::inputs;
using test::share;
using testing::HasSubstr;
using torch::nn::Linear;

struct Layers : torch::nn::Module {
  explicit Layers(bool normed = false) {
    a = register_module("a", Linear(6, 8));
    if (normed) norm = register_module("norm", torch::nn::BatchNorm1d(8));
    b = register_module("b", Linear(8, 3));
  }
  at::Tensor forward(const at::Tensor& x) {
    at::Tensor y = a->forward(x).tanh();
    if (!norm.is_empty()) y = norm->forward(y);
    return b->forward(y);
  }
  Linear a{nullptr}, b{nullptr};
  torch::nn::BatchNorm1d norm{nullptr};
};

std::shared_ptr<Layers> layers(bool normed = false) {
  at::manual_seed(5);
  return std::make_shared<Layers>(normed);
}

at::Tensor mine() { return share(inputs()); }
at::Tensor loss(const at::Tensor& output) { return output.square().mean(); }

void expect_gradients_of(const Layers& net, const Layers& other) {
  const auto ours = net.parameters();
  const auto theirs = other.parameters();
  for (size_t i = 0; i < ours.size(); ++i) {
    EXPECT_TRUE(at::allclose(ours[i].grad(), theirs[i].grad(), 1e-4, 1e-6)) << i;
  }
}

// The Error (usage) that `work` throws on each rank.
std::string refused(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(ExitCode::usage)) << error.what();
    EXPECT_NE(error.hint(), "");
    return error.what();
  }
  return "nothing was thrown";
}

// What the gradients of two rounds are, with a gradient penalty in the loss.
template <typename Net>
void backward_with_penalty(Net& net, const at::Tensor& rows) {
  at::Tensor x = rows.clone().requires_grad_();
  const at::Tensor y = net.forward(x);
  const at::Tensor slope = torch::autograd::grad({y.sum()}, {x}, {}, true, true)[0];
  (loss(y) + slope.square().sum(1).mean()).backward();
}

TEST(Passes, AGradientPenaltyIsAveraged) {
  for (const bool find : {false, true}) {
    const auto net = layers();
    DistributedDataParallel ddp(world(), net, {.bucket_bytes = 64, .find_unused_parameters = find});
    for (int round = 0; round < 2; ++round) {
      ddp.zero_grad();
      backward_with_penalty(ddp, mine());
    }
    const auto alone = layers();
    backward_with_penalty(*alone, inputs());
    expect_gradients_of(*net, *alone);
  }
}

TEST(Passes, GradientsForParametersThatAreTakenAsideAreNoPass) {
  const auto net = layers();
  DistributedDataParallel ddp(world(), net, {.bucket_bytes = 64});
  const at::Tensor y = ddp.forward(mine());
  torch::autograd::grad({loss(y)}, net->parameters(), {}, true);
  EXPECT_FALSE(net->a->weight.grad().defined());
  loss(y).backward();
  const auto alone = layers();
  loss(alone->forward(inputs())).backward();
  expect_gradients_of(*net, *alone);
}

TEST(Passes, AParameterThatOnlyThePenaltyLeavesOutIsNamed) {
  for (const bool find : {false, true}) {
    const auto net = layers();
    DistributedDataParallel ddp(world(), net, {.bucket_bytes = 1, .find_unused_parameters = find});
    at::Tensor x = mine().clone().requires_grad_();
    const at::Tensor y = ddp.forward(x);
    const at::Tensor slope = torch::autograd::grad({y.square().sum()}, {x}, {}, true, true)[0];
    try {
      torch::autograd::grad({y.sum()}, {x}, {}, true, true)[0].square().sum().backward();
      ADD_FAILURE() << "nothing was thrown";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("b.bias"));
      EXPECT_THAT(error.hint(), HasSubstr("0 * output.sum()"));
    }
  }
}

TEST(Passes, AllParametersAreNamedWhenNoneIsReached) {
  struct Around : torch::nn::Module {  // an output beside the layers
    Around() { layer = register_module("layer", Linear(6, 3)); }
    std::vector<at::Tensor> forward(const at::Tensor& x) { return {layer->forward(x), x * 2}; }
    Linear layer{nullptr};
  };
  auto net = std::make_shared<Around>();
  DistributedDataParallel ddp(world(), net);
  try {
    ddp.forward(mine().clone().requires_grad_())[1].sum().backward();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("no gradient reached parameter layer.weight (and 1 more of 2)"));
  }
}

TEST(Passes, TwoForwardsBeforeOneBackwardWorkWithBatchNorm) {
  const auto net = layers(/*normed=*/true);
  DistributedDataParallel ddp(world(), net, {.bucket_bytes = 64});
  for (int round = 0; round < 3; ++round) {
    ddp.zero_grad();
    const at::Tensor real = ddp.forward(mine());
    const at::Tensor fake = ddp.forward(mine().cos());
    (loss(real) - fake.mean()).backward();
  }
  std::vector<double> sums = {net->a->weight.grad().sum().item<double>()};
  const double alone = sums[0];
  world().sum(sums);
  EXPECT_NEAR(sums[0] / world().size(), alone, 1e-9);
}

TEST(Passes, TwoForwardsBeforeOneBackwardWorkWithABufferThatTheGraphKeeps) {
  struct Scaled : torch::nn::Module {
    Scaled() {
      layer = register_module("layer", Linear(6, 3));
      scale = register_buffer("scale", at::full({3}, 2));
      register_buffer("another", at::full({3}, 2));
    }
    at::Tensor forward(const at::Tensor& x) { return layer->forward(x) * scale; }
    Linear layer{nullptr};
    at::Tensor scale;
  };
  auto net = std::make_shared<Scaled>();
  DistributedDataParallel ddp(world(), net);
  const at::Tensor sum = ddp.forward(mine()).sum() + ddp.forward(mine()).sum();
  sum.backward();
  EXPECT_TRUE(at::equal(net->layer->bias.grad(), at::full({3}, 4.0 * static_cast<double>(mine().size(0)))));
}

TEST(Passes, ASecondBackwardPassOverOneForwardIsRefused) {
  const auto net = layers();
  DistributedDataParallel ddp(world(), net, {.bucket_bytes = 64});
  const at::Tensor y = ddp.forward(mine());
  y.square().mean().backward({}, /*retain_graph=*/true);
  EXPECT_THAT(refused([&] { y.abs().mean().backward(); }), HasSubstr("a second backward pass came after one"));
}

TEST(Passes, ABackwardPassThatMakesAGraphIsRefused) {
  const auto net = layers();
  DistributedDataParallel ddp(world(), net, {.bucket_bytes = 64});
  const at::Tensor y = ddp.forward(mine());
  EXPECT_THAT(refused([&] { loss(y).backward({}, /*retain_graph=*/true, /*create_graph=*/true); }),
              HasSubstr("backward(create_graph = true) would average the gradient of b."));
}

TEST(Passes, TwoOutputsInTwoBackwardPassesAreRefused) {
  const auto net = layers();
  DistributedDataParallel ddp(world(), net, {.bucket_bytes = 64});
  const at::Tensor first = ddp.forward(mine());
  const at::Tensor second = ddp.forward(mine().cos());
  loss(first).backward();
  EXPECT_THAT(refused([&] { loss(second).backward(); }), HasSubstr("the gradient of b."));
}

TEST(Passes, NoSyncAroundForwardOnlyIsRefused) {
  const auto net = layers();
  DistributedDataParallel ddp(world(), net, {.bucket_bytes = 64});
  at::Tensor y;
  {
    const auto guard = ddp.no_sync();
    y = ddp.forward(mine());
  }
  EXPECT_THAT(refused([&] { loss(y).backward(); }), HasSubstr("forward pass ran under no_sync(), but its backward"));
}

TEST(Passes, NoSyncAroundBackwardOnlyIsRefused) {
  const auto net = layers();
  DistributedDataParallel ddp(world(), net, {.bucket_bytes = 64});
  const at::Tensor y = ddp.forward(mine());
  const auto guard = ddp.no_sync();
  EXPECT_THAT(refused([&] { loss(y).backward(); }), HasSubstr("backward pass runs under no_sync(), but its forward"));
}

TEST(Passes, AModuleThatIsConvertedAfterWrappingIsRefused) {
  const auto net = layers();
  DistributedDataParallel ddp(world(), net);
  net->to(at::kDouble);
  EXPECT_THAT(refused([&] { ddp.forward(mine().to(at::kDouble)); }),
              HasSubstr("parameter a.weight was converted or moved (it is float64 on cpu now)"));
}

TEST(Passes, AParameterThatBecomesTrainableAfterWrappingIsRefused) {
  const auto net = layers();
  net->a->bias.requires_grad_(false);
  DistributedDataParallel ddp(world(), net);
  loss(ddp.forward(mine())).backward();
  net->a->bias.requires_grad_(true);
  EXPECT_THAT(refused([&] { ddp.forward(mine()); }), HasSubstr("parameter a.bias was made trainable"));
}

TEST(Passes, ALayerThatIsAddedAfterWrappingIsRefused) {
  torch::nn::Sequential net(Linear(6, 8), Linear(8, 3));
  DistributedDataParallel ddp(world(), net.ptr());
  ddp.forward(mine());
  net->push_back(Linear(3, 2));
  EXPECT_THAT(refused([&] {
                for (int step = 0; step < 64; ++step) ddp.forward(mine());
              }),
              HasSubstr("parameter 2.weight was added"));
}

TEST(Passes, TheModulesOwnForwardIsRefused) {
  const auto net = layers();
  DistributedDataParallel ddp(world(), net);
  EXPECT_THAT(refused([&] { loss(net->forward(mine())).backward(); }), HasSubstr("no ddp.forward came before"));
  const auto guard = ddp.no_sync();
  EXPECT_NO_THROW(loss(net->forward(mine())).backward());
}

TEST(Passes, AWrapperThatEndsBeforeItsBackwardPassIsMissed) {
  const auto net = layers();
  at::Tensor y;
  {
    DistributedDataParallel ddp(world(), net);
    y = ddp.forward(mine());
  }
  EXPECT_THAT(refused([&] { loss(y).backward(); }), HasSubstr("ended before its backward pass"));
  EXPECT_NO_THROW(loss(net->forward(mine())).backward());  // without a wrapper: as anywhere
}

TEST(Passes, SeveralBackwardPassesOverOneForwardAddUpUnderNoSync) {
  const auto net = layers();
  DistributedDataParallel ddp(world(), net, {.bucket_bytes = 64});
  loss(ddp.forward(mine()));  // and a forward pass that nobody uses
  {
    const auto guard = ddp.no_sync();
    const at::Tensor y = ddp.forward(mine());
    y.square().mean().backward({}, /*retain_graph=*/true);
    y.abs().mean().backward();
    const auto local = layers();
    const at::Tensor same = local->forward(mine());
    (same.square().mean() + same.abs().mean()).backward();
    expect_gradients_of(*net, *local);  // nothing was averaged
  }
  loss(ddp.forward(mine())).backward();
  const auto alone = layers();
  const at::Tensor y = alone->forward(inputs());
  (2 * y.square().mean() + y.abs().mean()).backward();
  expect_gradients_of(*net, *alone);
}

TEST(Passes, AModuleThatIsWrappedTwiceIsAveragedByTheWrapperThatIsCalled) {
  const auto net = layers();
  DistributedDataParallel first(world(), net, {.bucket_bytes = 64});
  DistributedDataParallel second(world(), net, {.bucket_bytes = 64});
  for (int round = 0; round < 2; ++round) {
    second.zero_grad();
    loss(second.forward(mine())).backward();
  }
  const auto alone = layers();
  loss(alone->forward(inputs())).backward();
  expect_gradients_of(*net, *alone);
}

TEST(Passes, AModuleMayBeFrozenWhileAnotherIsTrainedThroughIt) {
  const auto critic = layers();
  const auto maker = std::make_shared<torch::nn::LinearImpl>(6, 6);
  DistributedDataParallel critic_ddp(world(), critic);
  DistributedDataParallel maker_ddp(world(), maker);
  for (int round = 0; round < 2; ++round) {
    for (at::Tensor& parameter : critic->parameters()) parameter.requires_grad_(false);
    loss(critic_ddp.forward(maker_ddp.forward(mine()))).backward();
    EXPECT_FALSE(critic->a->weight.grad().defined());
    EXPECT_TRUE(maker->weight.grad().defined());
    for (at::Tensor& parameter : critic->parameters()) parameter.requires_grad_(true);
    loss(critic_ddp.forward(maker_ddp.forward(mine()).detach())).backward();
    critic_ddp.zero_grad();
    maker_ddp.zero_grad();
  }
}

// As torch.utils.checkpoint(use_reentrant=True): runs a part of the forward pass again within backward.
struct Checkpoint : torch::autograd::Function<Checkpoint> {
  using Part = std::function<at::Tensor(const at::Tensor&)>;
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const Part* part) {
    context->save_for_backward({x});
    context->saved_data["part"] = reinterpret_cast<int64_t>(part);
    const at::NoGradGuard no_grad;
    return (*part)(x);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const auto* part = reinterpret_cast<const Part*>(context->saved_data["part"].toInt());
    at::Tensor x = context->get_saved_variables()[0].detach().requires_grad_();
    const at::AutoGradMode with_gradients(true);
    torch::autograd::backward({(*part)(x)}, {gradients[0]});
    return {x.grad(), at::Tensor()};
  }
};

TEST(Passes, APartThatIsComputedAgainInBackwardIsAveraged) {
  struct Checkpointed : torch::nn::Module {
    Checkpointed() {
      net = register_module("net", layers());
      part = [this](const at::Tensor& x) { return net->a->forward(x).tanh(); };
    }
    at::Tensor forward(const at::Tensor& x) { return net->b->forward(Checkpoint::apply(x, &part)); }
    std::shared_ptr<Layers> net;
    Checkpoint::Part part;
  };
  for (const auto overlap : {DdpOptions::Overlap::off, DdpOptions::Overlap::on}) {
    auto net = std::make_shared<Checkpointed>();
    DistributedDataParallel ddp(world(), net, {.bucket_bytes = 64, .overlap = overlap});
    for (int round = 0; round < 2; ++round) {
      ddp.zero_grad();
      loss(ddp.forward(mine().clone().requires_grad_())).backward();
    }
    const auto alone = layers();
    loss(alone->forward(inputs())).backward();
    expect_gradients_of(*net->net, *alone);
  }
}

TEST(Passes, AnOptimizerThatEvaluatesSeveralTimesAStepWorks) {
  const auto net = layers();
  const auto alone = layers();
  DistributedDataParallel ddp(world(), net, {.bucket_bytes = 64});
  const auto options = torch::optim::LBFGSOptions(0.5).max_iter(4);
  torch::optim::LBFGS ours(ddp.parameters(), options);
  torch::optim::LBFGS theirs(alone->parameters(), options);
  for (int step = 0; step < 2; ++step) {
    ours.step([&] {
      ours.zero_grad();
      const at::Tensor value = loss(ddp.forward(mine()));
      value.backward();
      std::vector<double> sums = {value.item<double>()};
      world().sum(sums);
      return at::scalar_tensor(sums[0] / world().size());
    });
    theirs.step([&] {
      theirs.zero_grad();
      const at::Tensor value = loss(alone->forward(inputs()));
      value.backward();
      return value;
    });
  }
  EXPECT_TRUE(at::allclose(net->a->weight, alone->a->weight, 1e-3, 1e-4));
}

}  // namespace
}  // namespace lockstep::passes_test
