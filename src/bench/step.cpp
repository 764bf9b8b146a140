#include "bench/step.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <c10/util/ScopeExit.h>
#include <fmt/format.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <chrono>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>

#include "bench/slowest.h"
#include "comm/allreduce_sum.h"
#include "comm/group.h"
#include "lockstep/ddp.h"
#include "lockstep/net.h"
#include "lockstep/world.h"
#include "world/synchronize.h"

namespace lockstep {
namespace {

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

struct Layers : Net {
  Layers(int64_t layers, int64_t width) {
    for (int64_t i = 0; i < layers; ++i) {
      all.push_back(register_module(fmt::format("layer{}", i), torch::nn::Linear(width, width)));
    }
  }
  at::Tensor forward(at::Tensor x) override {
    for (auto& layer : all) x = layer->forward(x).relu();
    return x;
  }
  std::vector<torch::nn::Linear> all;
};

std::shared_ptr<Net> make_layers(const World& world, const StepOptions& options) {
  auto net = std::make_shared<Layers>(options.layers, options.width);
  net->to(world.device());
  return net;
}

// What a rank trains on: the same in every step.
struct Work {
  at::Tensor inputs;
  at::Tensor labels;  // of images

  Work(const World& world, const StepOptions& options) {
    if (!options.image_net) {
      inputs = at::randn({options.batch, options.width}).to(world.device());
      return;
    }
    const auto format = options.channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
    inputs = at::rand({options.batch, 3, 32, 32}).contiguous(format).to(world.device());
    labels = at::randint(10, {options.batch}, at::kLong).to(world.device());
  }

  at::Tensor loss(const at::Tensor& outputs) const {
    return labels.defined() ? at::cross_entropy_loss(outputs, labels) : outputs.square().mean();
  }
};

// `ways`: milliseconds in the order of StepTimes, a sample of each way from every round.
void compare(const std::vector<std::vector<double>>& ways, StepTimes& times) {
  using Rounds = std::vector<size_t>;
  const auto over = [](const Rounds& rounds, auto value) {
    std::vector<double> values;
    for (const size_t i : rounds) values.push_back(value(i));
    return summarize(values);
  };
  const auto speed = [&](const Rounds& rounds, size_t way, size_t of) {
    return over(rounds, [&](size_t i) { return ways[of][i] / ways[way][i]; }).p50;
  };
  Rounds all(ways[0].size());
  std::iota(all.begin(), all.end(), size_t{0});
  times.speed_blocking = speed(all, 1, 0);
  times.speed_in_buckets = speed(all, 2, 0);
  times.speed_overlapped = speed(all, 3, 0);
  if (ways.size() > 4) {
    const auto of_unsent = [&](size_t way) {
      return estimate(all.size(), [&, way](const Rounds& rounds) { return speed(rounds, way, 4); });
    };
    times.unsent = summarize(ways[4]);
    times.speed_unsent = speed(all, 4, 0);
    times.sending_in_buckets = of_unsent(2);
    times.sending_overlapped = of_unsent(3);
  }
  const auto below_blocking = [&](const Rounds& rounds, size_t way) {
    return over(rounds, [&](size_t i) { return ways[1][i] - ways[way][i]; });
  };
  if (below_blocking(all, 0).p25 <= 0) return;
  const auto hidden = [&](size_t way) {
    return estimate(all.size(), [&, way](const Rounds& rounds) {
      const double communication = below_blocking(rounds, 0).p50;
      return communication > 0 ? below_blocking(rounds, way).p50 / communication
                               : std::numeric_limits<double>::quiet_NaN();
    });
  };
  times.hidden_in_buckets = hidden(2);
  times.hidden_overlapped = hidden(3);
}

}  // namespace

StepTimes measure_step(World& world, const StepOptions& options) {
  at::manual_seed(0);
  // All ways train the same network: where its tensors lie in memory alone makes a few percent.
  const std::shared_ptr<Net> net = options.image_net ? options.image_net() : make_layers(world, options);
  torch::optim::SGD optimizer_of_all(net->parameters(), 1e-3);
  DistributedDataParallel ddp(world, net, {.bucket_bytes = options.bucket_bytes, .overlap = DdpOptions::Overlap::on});
  const Work work(world, options);
  const auto forward_and_loss = [&] {
    const auto around = options.around_forward();
    return work.loss(ddp.forward(work.inputs));
  };

  StepTimes times;
  for (const at::Tensor& parameter : net->parameters())
    if (parameter.requires_grad()) times.gradient_bytes += static_cast<int64_t>(parameter.nbytes());
  std::vector<double> forward, backward, optimizer;
  const auto alone = [&](const std::function<void()>& after_backward) {
    ddp.zero_grad();
    const auto no_sync = ddp.no_sync();
    const auto start = Clock::now();
    const at::Tensor loss = forward_and_loss();
    synchronize(world.device());
    const double until_loss = ms_since(start);
    loss.backward();
    synchronize(world.device());
    const double until_gradients = ms_since(start);
    after_backward();
    synchronize(world.device());
    const double until_averaged = ms_since(start);
    optimizer_of_all.step();
    synchronize(world.device());
    forward.push_back(until_loss);
    backward.push_back(until_gradients - until_loss);
    optimizer.push_back(ms_since(start) - until_averaged);
  };
  const auto with_ddp = [&](
                            bool overlap, const std::function<void()>& after_backward = [] {}) {
    set_overlap(world, overlap);
    ddp.zero_grad();
    forward_and_loss().backward();
    after_backward();
    optimizer_of_all.step();
  };
  std::vector<std::function<void()>> ways = {
      [&] { alone([&] { world.barrier(); }); },
      [&] {
        alone([&] {
          std::vector<at::Tensor> flat;
          for (const at::Tensor& parameter : net->parameters()) {
            if (parameter.grad().defined()) flat.push_back(parameter.grad().reshape({-1}));  // else frozen
          }
          at::Tensor all = at::cat(flat);
          set_overlap(world, false);
          allreduce_sum(world, all);
        });
      },
      [&] { with_ddp(false); },
      [&] { with_ddp(true); },
  };
  if (world.size() > 1 && world.device().is_cpu()) {
    ways.push_back([&] {
      set_sending(world, false);
      const auto again = c10::make_scope_exit([&] { set_sending(world, true); });
      with_ddp(true, [&] { world.barrier(); });
    });
  }
  std::vector<std::vector<double>> samples(ways.size());
  for (int64_t step = -3; step < options.steps; ++step) {
    if (step == 0) {
      for (auto* phase : {&forward, &backward, &optimizer}) phase->clear();
    }
    for (size_t way = 0; way < ways.size(); ++way) {
      world.barrier();
      const auto start = Clock::now();
      ways[way]();
      synchronize(world.device());
      const double ms = ms_since(start);
      if (step >= 0) samples[way].push_back(ms);  // the first ones warm up, and buckets are rebuilt after the first
    }
  }
  times.forward = summarize(forward);
  times.backward = summarize(backward);
  times.optimizer = summarize(optimizer);
  for (auto& way : samples) way = slowest(world, way);
  times.synchronised = summarize(samples[0]);
  times.blocking = summarize(samples[1]);
  times.in_buckets = summarize(samples[2]);
  times.overlapped = summarize(samples[3]);
  if (world.size() > 1) compare(samples, times);
  if (options.profile) {
    world.barrier();
    OperatorTimes operators;
    for (int64_t step = 0; step < options.steps; ++step) {
      with_ddp(true);
      synchronize(world.device());
    }
    times.operators = operators.stop();
  }
  return times;
}

std::string step_table(const StepTimes& times) {
  std::string text = fmt::format("# {} bytes of gradients; ms: p50 and p95\n", times.gradient_bytes);
  const auto row = [&](const char* name, const Summary& summary, const std::string& more = "") {
    text += fmt::format("{:<52} {:>9.2f} {:>9.2f}{}\n", name, summary.p50, summary.p95, more);
  };
  const auto shares = [](std::optional<double> speed, std::optional<Estimate> hidden) {
    std::string said = speed ? fmt::format("  {:>6.3f}", *speed) : "";
    if (hidden) said += fmt::format("   {:>4.0f} % hidden", 100 * hidden->value);
    if (hidden && hidden->low < hidden->high)
      said += fmt::format(" ({:.0f}-{:.0f})", 100 * hidden->low, 100 * hidden->high);
    return said;
  };
  row("forward", times.forward);
  row("backward", times.backward);
  row("optimizer", times.optimizer);
  if (times.speed_blocking) text += fmt::format("{:<72}  {:>6}\n", "# ways to average", "speed");
  const auto when_told = [&](double share) {
    return times.hidden_overlapped ? std::optional(Estimate{share, share, share}) : std::nullopt;
  };
  const auto whole = times.speed_blocking ? std::optional(1.0) : std::nullopt;
  row("step that synchronises and sends nothing", times.synchronised, shares(whole, when_told(1)));
  row("step with one blocking all-reduce after backward", times.blocking, shares(times.speed_blocking, when_told(0)));
  row("step with buckets that move on after backward", times.in_buckets,
      shares(times.speed_in_buckets, times.hidden_in_buckets));
  row("step with buckets that travel during backward", times.overlapped,
      shares(times.speed_overlapped, times.hidden_overlapped));
  if (times.unsent) {
    row("step with buckets that are not sent", *times.unsent, shares(times.speed_unsent, std::nullopt));
    const auto left = [](const Estimate& share) {
      return fmt::format("{:.3f} ({:.3f}-{:.3f})", share.value, share.low, share.high);
    };
    text += fmt::format("# sending leaves {} of that step's speed after backward, {} during backward\n",
                        left(*times.sending_in_buckets), left(*times.sending_overlapped));
  }
  if (times.speed_blocking && !times.hidden_overlapped) {
    text += "# the blocking all-reduce costs too little to tell what is hidden of it\n";
  }
  return text;
}

}  // namespace lockstep
