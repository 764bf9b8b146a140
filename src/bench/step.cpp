#include "bench/step.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/randn.h>
#include <fmt/format.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <chrono>
#include <functional>
#include <memory>

#include "bench/slowest.h"
#include "comm/allreduce_sum.h"
#include "comm/group.h"
#include "lockstep/ddp.h"
#include "lockstep/world.h"

namespace lockstep {
namespace {

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

struct Layers : torch::nn::Module {
  Layers(int64_t layers, int64_t width) {
    for (int64_t i = 0; i < layers; ++i) {
      all.push_back(register_module(fmt::format("layer{}", i), torch::nn::Linear(width, width)));
    }
  }
  at::Tensor forward(at::Tensor x) {
    for (auto& layer : all) x = layer->forward(x).relu();
    return x;
  }
  std::vector<torch::nn::Linear> all;
};

// A network with its optimizer; each way of communicating has its own.
struct Trained {
  explicit Trained(const StepOptions& options)
      : net(std::make_shared<Layers>(options.layers, options.width)), optimizer(net->parameters(), 1e-3) {}
  std::shared_ptr<Layers> net;
  torch::optim::SGD optimizer;

  void forget_gradients() {
    for (at::Tensor parameter : net->parameters()) parameter.mutable_grad() = at::Tensor();
  }
};

}  // namespace

StepTimes measure_step(World& world, const StepOptions& options) {
  at::manual_seed(0);
  Trained plain(options);
  Trained parallel(options);
  DistributedDataParallel ddp(world, parallel.net,
                              {.bucket_bytes = options.bucket_bytes, .overlap = DdpOptions::Overlap::on});
  const at::Tensor rows = at::randn({options.batch, options.width});

  StepTimes times;
  for (const at::Tensor& parameter : plain.net->parameters())
    times.gradient_bytes += static_cast<int64_t>(parameter.nbytes());
  std::vector<double> forward, backward, optimizer;
  const auto alone = [&](const std::function<void()>& after_backward) {
    plain.forget_gradients();
    const auto start = Clock::now();
    const at::Tensor loss = plain.net->forward(rows).square().mean();
    const double until_loss = ms_since(start);
    loss.backward();
    const double until_gradients = ms_since(start);
    after_backward();
    const double until_averaged = ms_since(start);
    plain.optimizer.step();
    forward.push_back(until_loss);
    backward.push_back(until_gradients - until_loss);
    optimizer.push_back(ms_since(start) - until_averaged);
  };
  const auto with_ddp = [&](bool overlap) {
    set_overlap(world, overlap);
    ddp.zero_grad();
    ddp.forward(rows).square().mean().backward();
    parallel.optimizer.step();
  };
  const std::vector<std::function<void()>> ways = {
      [&] { alone([&] { world.barrier(); }); },
      [&] {
        alone([&] {
          std::vector<at::Tensor> flat;
          for (const at::Tensor& parameter : plain.net->parameters()) flat.push_back(parameter.grad().reshape({-1}));
          at::Tensor all = at::cat(flat);
          set_overlap(world, false);
          allreduce_sum(world, all);
        });
      },
      [&] { with_ddp(false); },
      [&] { with_ddp(true); },
  };
  std::vector<std::vector<double>> samples(ways.size());
  for (int64_t step = -3; step < options.steps; ++step) {
    if (step == 0) {
      for (auto* phase : {&forward, &backward, &optimizer}) phase->clear();
    }
    for (size_t way = 0; way < ways.size(); ++way) {
      world.barrier();
      const auto start = Clock::now();
      ways[way]();
      const double ms = ms_since(start);
      if (step >= 0) samples[way].push_back(ms);  // the first ones warm up, and buckets are rebuilt after the first
    }
  }
  times.forward = summarize(forward);
  times.backward = summarize(backward);
  times.optimizer = summarize(optimizer);
  times.synchronised = summarize(slowest(world, samples[0]));
  times.blocking = summarize(slowest(world, samples[1]));
  times.in_buckets = summarize(slowest(world, samples[2]));
  times.overlapped = summarize(slowest(world, samples[3]));
  return times;
}

std::string step_table(const StepTimes& times) {
  std::string text = fmt::format("# {} bytes of gradients; ms: p50 and p95\n", times.gradient_bytes);
  const auto row = [&](const char* name, const Summary& summary, const std::string& more = "") {
    text += fmt::format("{:<52} {:>9.2f} {:>9.2f}{}\n", name, summary.p50, summary.p95, more);
  };
  const auto hidden = [&](const Summary& way) { return fmt::format("   {:>4.0f} % hidden", 100 * times.hidden(way)); };
  row("forward", times.forward);
  row("backward", times.backward);
  row("optimizer", times.optimizer);
  row("step that synchronises and sends nothing", times.synchronised, "    100 % hidden by definition");
  row("step with one blocking all-reduce after backward", times.blocking, "      0 % hidden by definition");
  row("step with buckets, in the thread of backward", times.in_buckets, hidden(times.in_buckets));
  row("step with buckets that travel during backward", times.overlapped, hidden(times.overlapped));
  return text;
}

}  // namespace lockstep
