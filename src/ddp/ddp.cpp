#include "lockstep/ddp.h"

#include <c10/core/GradMode.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <torch/csrc/distributed/c10d/logger.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include "lockstep/world.h"

namespace lockstep {

struct DdpEngine::Impl {
  c10::intrusive_ptr<c10d::ProcessGroup> group;
  std::shared_ptr<torch::nn::Module> module;
  DdpOptions options;
  std::vector<at::Tensor> parameters;  // trainable ones, in order of registration, each once
  std::shared_ptr<c10d::Reducer> reducer;
  std::shared_ptr<c10d::Logger>
      logger;  // the Reducer holds it weakly, and crashes with unused parameters when it is gone

  void copy_from_rank_0(std::vector<at::Tensor> tensors) const {
    for (at::Tensor& tensor : tensors) {
      std::vector<at::Tensor> one = {tensor.detach()};
      group->broadcast(one)->wait();
    }
  }
};

DdpEngine::DdpEngine(World& world, std::shared_ptr<torch::nn::Module> module, const DdpOptions& options)
    : impl_(std::make_unique<Impl>()) {
  Impl& my = *impl_;
  my.group = world.process_group();
  my.module = std::move(module);
  my.options = options;
  std::unordered_map<size_t, std::string> names;
  for (const auto& parameter : my.module->named_parameters()) {
    if (!parameter.value().requires_grad()) continue;
    names[my.parameters.size()] = parameter.key();
    my.parameters.push_back(parameter.value());
  }

  c10d::verify_params_across_processes(my.group, my.module->parameters(), {});
  my.copy_from_rank_0(my.module->parameters());
  my.copy_from_rank_0(my.module->buffers());
  if (my.parameters.empty()) return;

  // As torch/nn/parallel/distributed.py builds its Reducer: buckets over the parameters in order, then reversed,
  // because gradients arrive about in the reverse order.
  const auto cap = static_cast<size_t>(options.bucket_bytes);
  const std::vector<bool> sparse(my.parameters.size(), false);
  auto [buckets, limits] = c10d::compute_bucket_assignment_by_size(my.parameters, {cap, cap}, sparse);
  std::reverse(buckets.begin(), buckets.end());
  my.reducer = std::make_shared<c10d::Reducer>(
      my.parameters, std::move(buckets), my.group, sparse, options.bucket_bytes, options.find_unused_parameters,
      /*gradient_as_bucket_view=*/true, std::move(names), /*first_bucket_bytes_cap=*/options.bucket_bytes,
      /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false, std::vector<int64_t>{});
  my.logger = std::make_shared<c10d::Logger>(my.reducer);
  my.reducer->set_logger(my.logger);
}

DdpEngine::~DdpEngine() = default;

void DdpEngine::begin_forward() {
  if (!c10::GradMode::is_enabled()) return;
  if (impl_->reducer) {
    impl_->reducer->prepare_for_forward();
    impl_->reducer->rebuild_buckets();
  }
  impl_->copy_from_rank_0(impl_->module->buffers());
}

void DdpEngine::end_forward(const std::vector<at::Tensor>& outputs) {
  if (!c10::GradMode::is_enabled() || !impl_->reducer) return;
  impl_->reducer->prepare_for_backward(impl_->options.find_unused_parameters ? outputs : std::vector<at::Tensor>{});
}

void DdpEngine::zero_grad() {
  // Not Tensor::zero_ through the optimizer: it would detach gradients that are views of buckets, which throws.
  for (at::Tensor& parameter : impl_->parameters) parameter.mutable_grad() = at::Tensor();
}

}  // namespace lockstep
