#include "train/gradients.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Reduction.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/fmax.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/unbind.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "lockstep/parameters.h"
#include "lockstep/weights.h"
#include "lockstep/world.h"
#include "train/device_path.h"
#include "world/synchronize.h"

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

// DistributedDataParallel's engine makes its buckets anew in the second step and times its first ten, then every 100th.
// What those steps do beside their work cannot be recorded.
constexpr int64_t kFirstSteps = 12;
bool engine_times(int64_t step) { return step < kFirstSteps || step % 100 == 0; }

[[noreturn]] void fail(const std::string& what, int64_t step, const std::string& last_saved) {
  throw Error(ExitCode::diverged, fmt::format("{} in step {}", what, step),
              fmt::format("{}; a lower optim.lr or train.clip_norm may help",
                          last_saved.empty() ? "nothing was saved yet" : "the last good weights are " + last_saved));
}

}  // namespace

bool records_steps(const Settings& settings) {
  return settings.train_cuda_graph && settings.train_virtual_ranks == 0 && settings.ddp_wire != "bf16";
}

Gradients::Gradients(World& world, std::shared_ptr<Net> net, const Settings& settings, const Plan& plan,
                     StepClock& clock, const Batches& batches, Reads reads)
    : world_(world),
      net_(std::move(net)),
      settings_(settings),
      plan_(plan),
      clock_(clock),
      batches_(batches),
      reads_(reads),
      deal_(plan, settings.train_virtual_ranks > 0 ? 1 : world.size()),
      parameters_(parameters(*net_)),
      ahead_(world.device()) {
  if (reads_ == Reads::when_asked) {
    const auto there = at::TensorOptions(at::kDouble).device(parameters_.at(0).device());
    step_there_ = at::zeros({}, there);
  }
  if (settings.train_virtual_ranks > 0) {
    virtual_ranks_.emplace(world, net_, settings.train_virtual_ranks);
  } else {
    ddp_.emplace(world, net_, ddp_options(settings));
    ddp_->on_gradients_ready([this] { recording_ != nullptr ? recording_->mark() : clock_.gradients_ready(); });
  }
}

// The net's alone, in the run's precision.
at::Tensor Gradients::logits(const at::Tensor& images) {
  const Autocast autocast(images.device(), settings_.train_precision);
  return net_->forward(images).to(at::kFloat);
}

at::Tensor Gradients::loss_of(const at::Tensor& logits, const at::Tensor& labels) const {
  return at::cross_entropy_loss(logits, labels, {}, at::Reduction::Mean, -100, settings_.train_label_smoothing);
}

void Gradients::enter(StepClock::Phase phase) {
  if (recording_ == nullptr) clock_.enter(phase);
}

void Gradients::run_passes(int64_t shard, const StepHooks* hooks, const std::vector<Batches::Chosen>* chosen) {
  const auto passes = deal_.passes(place_.in_epoch, shard);
  // The weighted sum of the losses of the shard's passes.
  double sum = 0;
  at::Tensor unread;
  for (size_t i = 0; i < passes.size(); ++i) {
    const Pass& pass = passes[i];
    enter(StepClock::data);
    if (chosen != nullptr) {
      batches_.make((*chosen)[i], images_, labels_);
    } else {
      batches_.load(pass.images, place_.epoch, images_, labels_);
    }
    enter(StepClock::forward);
    std::optional<NoSync> alone;
    if (ddp_ && i + 1 < passes.size()) alone.emplace(ddp_->no_sync());
    at::Tensor loss;
    {
      const Autocast autocast(images_.device(), settings_.train_precision);
      loss = ddp_ ? ddp_->forward(images_) : net_->forward(images_);
    }
    loss = loss_of(loss.to(at::kFloat), labels_);
    if (i == 0 && hooks != nullptr) {
      if (hooks->midway) hooks->midway();
      if (hooks->change_loss) hooks->change_loss(loss);
    }
    // A loss that is not finite makes gradients so, whatever they would be: all ranks see it in the same step.
    if (reads_ == Reads::each_step) {
      const double value = loss.item<float>();
      sum += pass.weight * value;
      if (pass.weight != 1) loss = loss * pass.weight;
      if (!std::isfinite(value)) loss = loss * std::numeric_limits<double>::quiet_NaN();
    } else {
      const at::Tensor value = loss.detach();
      const at::Tensor weighted = value.to(at::kDouble) * pass.weight;
      unread = unread.defined() ? unread + weighted : weighted;
      if (pass.weight != 1) loss = loss * pass.weight;
      loss = loss * (value - value + 1);  // 1, or NaN
    }
    enter(StepClock::backward);
    loss.backward();  // all ranks: the last pass of a step averages the gradients
  }
  if (reads_ == Reads::each_step) {
    shard_losses_.push_back(sum);
  } else {
    unread_losses_.push_back(unread);
  }
}

void Gradients::step(const StepPlace& place, const StepHooks& hooks) {
  place_ = place;
  shard_losses_.clear();
  unread_losses_.clear();
  replayed_ = may_replay(hooks);
  if (replayed_) {
    replay(hooks);
  } else if (ddp_) {
    ddp_->zero_grad();
    run_passes(world_.rank(), &hooks);
    ++plain_steps_;
  } else {
    bool first = true;
    virtual_ranks_->step([&](int64_t shard) { run_passes(shard, std::exchange(first, false) ? &hooks : nullptr); });
  }
}

// The same on all ranks: NCCL wants a sum recorded by all of them or by none.
bool Gradients::may_replay(const StepHooks& hooks) const {
  if (!records_steps(settings_) || reads_ != Reads::when_asked || hooks.plain) return false;
  if (deal_.images(place_.in_epoch) != plan_.global_batch) return false;
  return recorded_ || !engine_times(plain_steps_ + 1);
}

void Gradients::replay(const StepHooks& hooks) {
  clock_.enter(StepClock::data);
  const auto passes = deal_.passes(place_.in_epoch, world_.rank());
  chosen_.resize(passes.size());
  for (size_t i = 0; i < passes.size(); ++i) batches_.choose(passes[i].images, place_.epoch, chosen_[i]);
  step_there_.fill_(static_cast<double>(place_.in_run));
  clock_.enter(StepClock::backward);
  if (!recorded_) record();
  if (hooks.midway) hooks.midway();
  recorded_->replay();
  ahead_.given();
  unread_losses_ = recorded_losses_;
  clock_.replays(*recorded_);
}

void Gradients::record() {
  // The graph has memory of its own, beside what plain steps took and may need again. An error of an earlier step shows
  // here at the latest, under its own name.
  give_back_memory(world_.device());
  try {
    recorded_ = record_work(world_.device(), [this](RecordedWork& work) {
      recording_ = &work;
      unread_losses_.clear();
      ddp_->zero_grad();
      run_passes(world_.rank(), nullptr, &chosen_);
      work.mark();
      clip_on_device();
      recorded_losses_ = unread_losses_;
      recording_ = nullptr;
    });
  } catch (const c10::OutOfMemoryError& error) {
    throw Error(
        ExitCode::usage,
        fmt::format("no memory for a recorded step beside what plain ones need: {}", error.what_without_backtrace()),
        "train without (--set train.cuda_graph=false), or with a smaller train.micro_batch or batch");
  } catch (const c10::Error& error) {
    const std::string said = error.what_without_backtrace();
    if (said.find("captur") == std::string::npos) throw;
    throw Error(ExitCode::internal, fmt::format("a step could not be recorded as a CUDA graph: {}", said),
                "train without (--set train.cuda_graph=false), and report it with `lockstep --version`");
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

// Gives the length of all gradients.
at::Tensor Gradients::clip_on_device() {
  std::vector<at::Tensor> gradients;
  for (const at::Tensor& parameter : parameters_) {
    if (parameter.grad().defined()) gradients.push_back(parameter.grad());
  }
  if (gradients.empty()) return {};
  const at::NoGradGuard no_grad;
  const at::Tensor length = at::linalg_vector_norm(at::stack(at::_foreach_norm(gradients)));
  if (const double limit = settings_.train_clip_norm; limit > 0) {
    // As a list of one-element tensors, since a tensor as the factor of all would be read by the host first.
    const at::Tensor factor = (limit / (length + 1e-6)).clamp_max(1.0);
    for (at::Tensor& gradient : gradients) gradient.mul_(factor);
  }
  if (reads_ == Reads::each_step) return length;
  std::vector<at::Tensor> seen = {length.to(at::kDouble)};
  seen.insert(seen.end(), unread_losses_.begin(), unread_losses_.end());
  const at::Tensor values = at::stack(seen);
  if (!finite_.defined()) {
    finite_ = at::zeros_like(values);
    finite_until_ = at::full_like(values, static_cast<double>(place_.in_run - 1));
  }
  finite_ += values - values;                                         // 0 or NaN, and once NaN always
  at::fmax_out(finite_until_, finite_until_, finite_ + step_there_);  // passes NaN over
  return length;
}

void Gradients::clip(const std::string& last_saved) {
  if (reads_ == Reads::each_step) {
    // The averaged gradients are the same on all ranks, so they all see in the same step when these are not finite.
    const at::Tensor length = clip_on_device();
    if (length.defined() && !std::isfinite(length.item<float>())) explain_now(last_saved);
    return;
  }
  if (!replayed_) {
    step_there_.fill_(static_cast<double>(place_.in_run));
    clip_on_device();
  }
  ++steps_unread_;
}

void Gradients::check(const std::string& last_saved) {
  if (steps_unread_ == 0) return;
  std::vector<at::Tensor> scalars = unread_losses_;
  if (finite_.defined()) {
    for (const at::Tensor& each : finite_until_.unbind()) scalars.push_back(each);
  }
  const std::vector<double> values = read_back(scalars);
  steps_unread_ = 0;
  const size_t losses = unread_losses_.size();
  shard_losses_.assign(values.begin(), values.begin() + static_cast<ptrdiff_t>(losses));
  const auto first_bad = [&](size_t i) { return static_cast<int64_t>(values[losses + i]) + 1; };
  if (!finite_.defined() || first_bad(0) > place_.in_run) return;
  int64_t own = place_.in_run + 1;
  for (size_t i = 1; i <= losses; ++i) own = std::min(own, first_bad(i));
  explain_later(first_bad(0), own, last_saved);
}

// The parameters have moved on: what is known is what was noted then.
void Gradients::explain_later(int64_t step_of_run, int64_t own_loss_step, const std::string& last_saved) {
  const std::string saved = world_.all_gather(last_saved)[0];
  world_.together([&] {
    if (own_loss_step == step_of_run)
      fail(fmt::format("the loss on rank {} is not finite", world_.rank()), step_of_run, saved);
  });
  world_.together([&] { fail("the losses are finite, but a gradient is not,", step_of_run, saved); });
  throw std::logic_error("unreachable");
}

void Gradients::explain_now(const std::string& last_saved) {
  const at::AutoGradMode with_gradients(true);  // who calls computes without
  const std::string saved = world_.all_gather(last_saved)[0];
  world_.together([&] {
    for (const double loss : shard_losses_) {
      if (!std::isfinite(loss)) {
        fail(fmt::format("the loss on rank {} is {}", world_.rank(), loss), place_.in_run, saved);
      }
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
      for (const Pass& pass : deal_.passes(place_.in_epoch, shard)) {
        batches_.load(pass.images, place_.epoch, images_, labels_);
        loss_of(logits(images_), labels_).backward();
      }
      for (const auto& [name, parameter] : net_->named_parameters().pairs()) {
        if (parameter.grad().defined() && !parameter.grad().isfinite().all().item<bool>()) {
          fail(fmt::format("the gradient of {} on rank {} is not finite", name, world_.rank()), place_.in_run, saved);
        }
      }
    }
  });
  world_.together([&] { fail("each rank's gradients are finite, but their sum is not,", place_.in_run, saved); });
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
    const at::Tensor input = at::zeros({images, 3, 32, 32}, at::TensorOptions(world_.device()));
    const at::Tensor labels = at::zeros({images}, at::TensorOptions(at::kLong).device(world_.device()));
    double best = std::numeric_limits<double>::infinity();
    for (int repeat = 0; repeat < 4; ++repeat) {
      const auto started = std::chrono::steady_clock::now();
      for (int64_t i = 0; i < passes; ++i) {
        for (at::Tensor& parameter : parameters_) parameter.mutable_grad() = at::Tensor();
        loss_of(logits(input), labels).backward();
      }
      synchronize(world_.device());
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
