// Trains small networks in ways that are special to DistributedDataParallel; rank 0 prints what they hold:
//   ddp_numbers CASE        a line for each tensor, "NAME SUM", and for the last loss
//   ddp_numbers world_first the World ends before a wrapper; prints what the wrapper says of that
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/autograd.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <memory>
#include <optional>
#include <string>

#include "lockstep/ddp.h"
#include "lockstep/error.h"
#include "lockstep/weights.h"
#include "lockstep/world.h"

namespace {

using torch::nn::Linear;

struct Plain : torch::nn::Module {
  Plain() {
    a = register_module("a", Linear(6, 8));
    b = register_module("b", Linear(8, 3));
  }
  at::Tensor forward(const at::Tensor& x) { return b->forward(a->forward(x).tanh()); }
  Linear a{nullptr}, b{nullptr};
};

struct Normed : torch::nn::Module {
  Normed() {
    a = register_module("a", Linear(6, 8));
    n = register_module("n", torch::nn::BatchNorm1d(8));
    b = register_module("b", Linear(8, 3));
  }
  at::Tensor forward(const at::Tensor& x) { return b->forward(n->forward(a->forward(x))); }
  Linear a{nullptr}, b{nullptr};
  torch::nn::BatchNorm1d n{nullptr};
};

struct Tied : torch::nn::Module {  // one layer under two names
  Tied() {
    a = register_module("a", Linear(6, 6));
    b = register_module("b", a);
  }
  at::Tensor forward(const at::Tensor& x) { return b->forward(a->forward(x).tanh()); }
  Linear a{nullptr}, b{nullptr};
};

at::Tensor rows(const lockstep::World& world, double phase) {
  const at::Tensor all = (at::arange(72, at::kFloat) + phase).reshape({12, 6}).sin();
  return all.chunk(world.size())[static_cast<size_t>(world.rank())];
}

void print(const lockstep::NamedTensors& state) {
  for (const auto& [name, tensor] : state) {
    fmt::print("{} {:.17g}\n", name, tensor.to(at::kDouble).sum().item<double>());
  }
}

template <typename Net>
void run(lockstep::World& world, const std::string& which) {
  at::manual_seed(5);
  const auto net = std::make_shared<Net>();
  lockstep::DistributedDataParallel ddp(world, net, {.broadcast_buffers = which != "own_buffers"});
  torch::optim::SGD optimizer(ddp.parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  at::Tensor loss;
  for (int step = 0; step < 5; ++step) {
    optimizer.zero_grad();
    at::Tensor x = rows(world, step).clone();
    if (which == "penalty") {
      x.requires_grad_();
      const at::Tensor y = ddp.forward(x);
      const at::Tensor slope = torch::autograd::grad({y.sum()}, {x}, {}, true, true)[0];
      loss = y.square().mean() + slope.square().sum(1).mean();
    } else if (which == "two_forwards") {
      if (step == 3) net->eval();
      const at::Tensor real = ddp.forward(x);
      const at::Tensor fake = ddp.forward(x.cos());
      loss = real.square().mean() + (fake - 1).square().mean();
    } else {
      loss = (ddp.forward(x) - 1).square().mean();
    }
    loss.backward();
    optimizer.step();
  }
  if (world.rank() != world.size() - 1) return;
  print(lockstep::state_dict(*net));
  fmt::print("loss {:.17g}\n", loss.item<double>());
}

int world_first() {
  std::optional<lockstep::World> world(std::in_place);
  auto net = std::make_shared<Plain>();
  const auto ddp = std::make_unique<lockstep::DistributedDataParallel<Plain>>(*world, net);
  at::Tensor y = ddp->forward(rows(*world, 0));
  y.sum().backward();
  y = ddp->forward(rows(*world, 0));
  const bool speaks = world->rank() == 0;
  world.reset();
  for (const bool forward : {true, false}) {
    try {
      forward ? (void)ddp->forward(at::ones({2, 6})) : y.sum().backward();
    } catch (const lockstep::Error& error) {
      if (speaks) fmt::print("{}\n", error.what());
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string which = argc > 1 ? argv[1] : "";
  if (which == "world_first") return world_first();
  lockstep::World world({.threads = 1});
  if (which == "penalty") {
    run<Plain>(world, which);
  } else if (which == "two_forwards" || which == "own_buffers") {
    run<Normed>(world, which);
  } else if (which == "tied") {
    run<Tied>(world, which);
  } else {
    return 64;
  }
  return 0;
}
