#include "optim/optimizer.h"

#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/empty_like.h>
#include <fmt/format.h>
#include <torch/optim/sgd.h>

#include <map>
#include <string_view>
#include <utility>

#include "lockstep/error.h"
#include "lockstep/net.h"
#include "lockstep/parameters.h"
#include "optim/muon.h"
#include "optim/schedule.h"

namespace lockstep {
namespace {

constexpr std::string_view kMomentum = ".momentum_buffer";
constexpr std::string_view kAverage = ".average";

// torch::optim::SGD::step on lists, as Python's SGD goes about it on a GPU: a few kernels for all parameters in place
// of a few for each, with the same bits. The state is SGD's own.
void step_sgd(torch::optim::SGD& sgd) {
  const at::NoGradGuard no_grad;
  for (const torch::optim::OptimizerParamGroup& group : sgd.param_groups()) {
    const auto& options = static_cast<const torch::optim::SGDOptions&>(group.options());
    std::vector<at::Tensor> parameters;
    std::vector<at::Tensor> changes;
    for (const at::Tensor& parameter : group.params()) {
      if (!parameter.grad().defined()) continue;
      parameters.push_back(parameter);
      changes.push_back(parameter.grad());
    }
    if (parameters.empty()) continue;
    if (options.weight_decay() != 0) changes = at::_foreach_add(changes, parameters, options.weight_decay());
    if (options.momentum() != 0) {
      std::vector<at::Tensor> buffers;
      std::vector<at::Tensor> added_to;
      std::vector<at::Tensor> added;
      for (size_t i = 0; i < parameters.size(); ++i) {
        auto& state = sgd.state()[parameters[i].unsafeGetTensorImpl()];
        if (!state) state = std::make_unique<torch::optim::SGDParamState>();
        auto& kept = static_cast<torch::optim::SGDParamState&>(*state);
        if (kept.momentum_buffer().defined()) {
          added_to.push_back(kept.momentum_buffer());
          added.push_back(changes[i]);
        } else {
          kept.momentum_buffer(changes[i].detach().clone());
        }
        buffers.push_back(kept.momentum_buffer());
      }
      if (!added.empty()) {
        at::_foreach_mul_(added_to, options.momentum());
        at::_foreach_add_(added_to, added);
      }
      changes = options.nesterov() ? at::_foreach_add(changes, buffers, options.momentum()) : buffers;
    }
    at::_foreach_add_(parameters, changes, -options.lr());
  }
}

}  // namespace

Optimizer::Optimizer(const Settings& settings, const Net& net, int64_t steps_per_epoch, const Division& division)
    : settings_(settings), net_(net), lr_(settings.optim_lr) {
  using Options = torch::optim::SGDOptions;
  std::vector<torch::optim::OptimizerParamGroup> groups;
  const auto add = [&](std::vector<at::Tensor> parameters, const Rate& rate, double momentum, double weight_decay) {
    if (parameters.empty()) return;
    groups.emplace_back(
        std::move(parameters),
        std::make_unique<Options>(
            Options(rate.peak).momentum(momentum).nesterov(settings.optim_nesterov).weight_decay(weight_decay)));
    rates_.push_back(rate);
  };
  if (settings.optim_name == "sgd") {
    add(lockstep::parameters(net), {.peak = settings.optim_lr}, settings.optim_momentum, settings.optim_weight_decay);
  } else {
    std::map<Net::Kind, std::vector<at::Tensor>> kinds;
    for (const auto& [name, parameter] : lockstep::named_parameters(net)) {
      if (parameter.requires_grad()) kinds[net.kind_of(name, parameter)].push_back(parameter);
    }
    const auto add_kind = [&](Net::Kind kind, const Rate& rate) {
      const double decay = rate.peak > 0 ? settings.optim_weight_decay / rate.peak : 0;
      add(kinds[kind], rate, settings.optim_sgd_momentum, decay);
    };
    const double bias_lr = settings.optim_bias_lr;
    add_kind(Net::Kind::bias, {.peak = bias_lr});
    add_kind(Net::Kind::whitening_bias,
             {.peak = bias_lr, .only_steps = settings.optim_whiten_epochs * steps_per_epoch});
    add_kind(Net::Kind::head, {.peak = settings.optim_head_lr});
    if (!kinds[Net::Kind::filter].empty()) {
      muon_ =
          std::make_unique<Muon>(kinds[Net::Kind::filter],
                                 Muon::Options{.momentum = settings.optim_momentum,
                                               .nesterov = settings.optim_nesterov,
                                               .type = settings.train_precision == "bf16" ? at::kBFloat16 : at::kFloat,
                                               .division = division});
    }
  }
  sgd_ = std::make_unique<torch::optim::SGD>(std::move(groups), Options(settings.optim_lr));
  if (settings.optim_ema == 0) return;
  for (const auto& [name, parameter] : lockstep::named_parameters(net)) {
    if (!parameter.requires_grad()) continue;
    averaged_names_.push_back(name);
    averaged_.push_back(parameter);
  }
}

Optimizer::~Optimizer() = default;

void Optimizer::step(int64_t step, int64_t total_steps) {
  const double share =
      share_of_peak(schedule_shape(settings_.optim_schedule), step, total_steps, settings_.optim_warmup_steps);
  lr_ = settings_.optim_lr * share;
  auto& groups = sgd_->param_groups();
  for (size_t i = 0; i < groups.size(); ++i) {
    const auto& [peak, only_steps] = rates_[i];
    groups[i].options().set_lr(peak *
                               (only_steps > 0 ? share_of_peak(ScheduleShape::linear, step, only_steps, 0) : share));
  }
  step_sgd(*sgd_);
  if (muon_) muon_->step(lr_);
  update_averages();
}

void Optimizer::update_averages() {
  if (averaged_.empty()) return;
  const at::NoGradGuard no_grad;
  if (averages_.empty()) {  // they begin as the weights after the first step
    for (const at::Tensor& parameter : averaged_) averages_.push_back(at::empty_like(parameter).copy_(parameter));
  } else {
    at::_foreach_lerp_(averages_, averaged_, 1 - settings_.optim_ema);
  }
}

void Optimizer::swap_averages() const {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < averages_.size(); ++i) {
    const at::Tensor parameter = averaged_[i].detach().clone();
    averaged_[i].copy_(averages_[i]);
    averages_[i].copy_(parameter);
  }
}

at::Tensor Optimizer::buffer_of(const at::Tensor& parameter) const {
  if (muon_) {
    if (const at::Tensor buffer = muon_->buffer_of(parameter); buffer.defined()) return buffer;
  }
  const auto kept = sgd_->state().find(parameter.unsafeGetTensorImpl());
  if (kept == sgd_->state().end()) return {};
  return static_cast<const torch::optim::SGDParamState&>(*kept->second).momentum_buffer();
}

NamedTensors Optimizer::state() const {
  NamedTensors tensors;
  for (const auto& [name, parameter] : lockstep::named_parameters(net_)) {
    const at::Tensor buffer = buffer_of(parameter);
    if (buffer.defined()) tensors.emplace_back(name + std::string(kMomentum), buffer);
  }
  for (size_t i = 0; i < averages_.size(); ++i) {
    tensors.emplace_back(averaged_names_[i] + std::string(kAverage), averages_[i]);
  }
  return tensors;
}

void Optimizer::load_state(const NamedTensors& tensors, const std::string& where) {
  const auto parameters = net_.named_parameters();
  std::map<std::string, at::Tensor> averages;
  for (const auto& [name, tensor] : tensors) {
    const bool average = name.ends_with(kAverage);
    const std::string_view ending = average ? kAverage : kMomentum;
    const std::string owner = name.ends_with(ending) ? name.substr(0, name.size() - ending.size()) : "";
    const at::Tensor* const parameter = parameters.find(owner);
    if (parameter == nullptr || parameter->sizes() != tensor.sizes()) {
      throw Error(ExitCode::damaged, fmt::format("{}: the optimizer's tensor {} fits no parameter", where, name),
                  "this is a checkpoint of another network or optimizer");
    }
    const at::Tensor copy = at::empty_like(parameter->detach()).copy_(tensor);
    if (average) {
      averages.emplace(owner, copy);
      continue;
    }
    if (muon_ && muon_->set_buffer(*parameter, copy)) continue;
    auto state = std::make_unique<torch::optim::SGDParamState>();
    state->momentum_buffer(copy);
    sgd_->state()[parameter->unsafeGetTensorImpl()] = std::move(state);
  }
  if (averages.empty()) return;
  averages_.clear();
  for (const std::string& name : averaged_names_) {
    const auto average = averages.find(name);
    if (average == averages.end()) {
      throw Error(ExitCode::damaged, fmt::format("{}: it has averages of some parameters, but not of {}", where, name),
                  "this is a checkpoint of another network");
    }
    averages_.push_back(average->second);
  }
}

}  // namespace lockstep
