#include "train/gradients.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>

#include "lockstep/weights.h"
#include "lockstep/world.h"

namespace lockstep {
namespace {

DdpOptions ddp_options(const Settings& settings) {
  using Overlap = DdpOptions::Overlap;
  return {.bucket_bytes = settings.ddp_bucket_bytes,
          .overlap = settings.ddp_overlap == "on"    ? Overlap::on
                     : settings.ddp_overlap == "off" ? Overlap::off
                                                     : Overlap::automatic,
          .wire = settings.ddp_wire == "bf16" ? DdpOptions::Wire::bf16 : DdpOptions::Wire::fp32};
}

}  // namespace

Gradients::Gradients(World& world, std::shared_ptr<Net> net, const Settings& settings, const Plan& plan,
                     StepClock& clock, Load load)
    : world_(world),
      net_(std::move(net)),
      settings_(settings),
      plan_(plan),
      clock_(clock),
      load_(std::move(load)),
      deal_(plan, settings.train_virtual_ranks > 0 ? 1 : world.size()),
      parameters_(net_->parameters()) {
  if (settings.train_virtual_ranks > 0) {
    virtual_ranks_.emplace(world, net_, settings.train_virtual_ranks);
  } else {
    ddp_.emplace(world, net_, ddp_options(settings));
  }
}

// The weighted sum of the losses of a shard's passes.
double Gradients::run_passes(int64_t step, int64_t shard, const std::function<void(at::Tensor&)>* before_backward) {
  const auto passes = deal_.passes(step, shard);
  double sum = 0;
  for (size_t i = 0; i < passes.size(); ++i) {
    const Pass& pass = passes[i];
    clock_.enter(StepClock::data);
    load_(pass.images, images_, labels_);
    clock_.enter(StepClock::forward);
    std::optional<NoSync> alone;
    if (ddp_ && i + 1 < passes.size()) alone.emplace(ddp_->no_sync());
    at::Tensor loss = at::cross_entropy_loss(ddp_ ? ddp_->forward(images_) : net_->forward(images_), labels_);
    if (i == 0 && before_backward != nullptr) (*before_backward)(loss);
    const double value = loss.item<float>();
    sum += pass.weight * value;
    if (pass.weight != 1) loss = loss * pass.weight;
    // Whatever its gradient would be: with this, all ranks see it in the same step.
    if (!std::isfinite(value)) loss = loss * std::numeric_limits<double>::quiet_NaN();
    clock_.enter(StepClock::backward);
    loss.backward();  // all ranks: the last pass of a step averages the gradients
  }
  return sum;
}

void Gradients::step(int64_t step, const std::function<void(at::Tensor&)>& before_backward) {
  shard_losses_.clear();
  if (ddp_) {
    ddp_->zero_grad();
    shard_losses_.push_back(run_passes(step, world_.rank(), &before_backward));
  } else {
    virtual_ranks_->step([&](int64_t shard) {
      const bool first = shard_losses_.empty();
      shard_losses_.push_back(run_passes(step, shard, first ? &before_backward : nullptr));
    });
  }
}

double Gradients::mean_loss() {
  // One place a shard, so that the sum over ranks is exact and the sum over shards has one order.
  std::vector<double> losses(static_cast<size_t>(plan_.shards), 0.0);
  const auto first = static_cast<ptrdiff_t>(plan_.shards_per_rank * world_.rank());
  std::copy(shard_losses_.begin(), shard_losses_.end(), losses.begin() + first);
  world_.sum(losses);
  return std::accumulate(losses.begin(), losses.end(), 0.0) / (ddp_ ? world_.size() : 1);
}

double Gradients::norm(double limit) {
  std::vector<at::Tensor> gradients;
  for (const at::Tensor& parameter : parameters_) {
    if (parameter.grad().defined()) gradients.push_back(parameter.grad());
  }
  if (gradients.empty()) return 0;
  const at::Tensor length = at::linalg_vector_norm(at::stack(at::_foreach_norm(gradients)));
  if (limit > 0) at::_foreach_mul_(gradients, (limit / (length + 1e-6)).clamp_max(1.0));
  return length.item<float>();
}

void Gradients::explain_not_finite(int64_t step_of_run, int64_t step, const std::string& last_saved) {
  const std::string saved = world_.all_gather(last_saved)[0];
  const auto fail = [&](const std::string& what) {
    throw Error(ExitCode::diverged, fmt::format("{} in step {}", what, step_of_run),
                fmt::format("{}; a lower optim.lr or train.clip_norm may help",
                            saved.empty() ? "nothing was saved yet" : "the last good weights are " + saved));
  };
  world_.together([&] {
    for (const double loss : shard_losses_) {
      if (!std::isfinite(loss)) fail(fmt::format("the loss on rank {} is {}", world_.rank(), loss));
    }
  });
  // Every loss is finite, so a gradient is not. Each rank does its passes again, alone, to see whether it was its own:
  // the parameters have not changed since.
  world_.together([&] {
    for (int64_t i = 0; i < plan_.shards_per_rank; ++i) {
      for (at::Tensor& parameter : parameters_) parameter.mutable_grad() = at::Tensor();
      std::optional<NoSync> alone;
      if (ddp_) alone.emplace(ddp_->no_sync());
      const int64_t shard = plan_.shards_per_rank * world_.rank() + i;
      for (const Pass& pass : deal_.passes(step, shard)) {
        load_(pass.images, images_, labels_);
        at::cross_entropy_loss(net_->forward(images_), labels_).backward();
      }
      for (const auto& [name, parameter] : net_->named_parameters().pairs()) {
        if (parameter.grad().defined() && !parameter.grad().isfinite().all().item<bool>()) {
          fail(fmt::format("the gradient of {} on rank {} is not finite", name, world_.rank()));
        }
      }
    }
  });
  world_.together([&] { fail("each rank's gradients are finite, but their sum is not,"); });
  throw std::logic_error("unreachable");
}

void Gradients::sync_buffers() {
  if (ddp_) ddp_->sync_buffers();
  if (virtual_ranks_) virtual_ranks_->sync_buffers();
}

double Gradients::cost_of_virtual_ranks() {
  std::vector<at::Tensor> buffers;
  for (const at::Tensor& buffer : net_->buffers()) buffers.push_back(buffer.clone());
  auto generator = at::detail::getDefaultCPUGenerator();
  const at::Tensor random = generator.get_state();
  const auto seconds = [&](int64_t passes, int64_t images) {
    const at::Tensor input = at::zeros({images, 3, 32, 32});
    const at::Tensor labels = at::zeros({images}, at::kLong);
    double best = std::numeric_limits<double>::infinity();
    for (int repeat = 0; repeat < 4; ++repeat) {
      const auto started = std::chrono::steady_clock::now();
      for (int64_t i = 0; i < passes; ++i) {
        for (at::Tensor& parameter : parameters_) parameter.mutable_grad() = at::Tensor();
        at::cross_entropy_loss(net_->forward(input), labels).backward();
      }
      best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count());
    }
    return best;
  };
  const int64_t shard = std::max<int64_t>(1, plan_.global_batch / plan_.shards);
  const double cost = seconds(plan_.shards_per_rank, shard) / seconds(1, shard * plan_.shards_per_rank) - 1;
  for (at::Tensor& parameter : parameters_) parameter.mutable_grad() = at::Tensor();
  const at::NoGradGuard no_grad;
  const auto current = net_->buffers();
  for (size_t i = 0; i < buffers.size(); ++i) current[i].copy_(buffers[i]);
  generator.set_state(random);
  return cost;
}

}  // namespace lockstep
