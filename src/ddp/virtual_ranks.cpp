#include "lockstep/virtual_ranks.h"

#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <torch/nn/module.h>

#include <bit>
#include <map>
#include <vector>

#include "comm/group.h"
#include "ddp/agreement.h"
#include "ddp/module_state.h"
#include "ddp/tree_sum.h"
#include "lockstep/error.h"
#include "lockstep/parameters.h"
#include "lockstep/world.h"
#include "world/world_impl.h"

namespace lockstep {
namespace {

using Tensors = std::vector<at::Tensor>;

bool power_of_two(int64_t number) { return number > 0 && std::has_single_bit(static_cast<uint64_t>(number)); }

Tensors copies(const Tensors& tensors) {
  Tensors copied;
  for (const at::Tensor& tensor : tensors) copied.push_back(tensor.detach().clone());
  return copied;
}

void assign(Tensors& targets, const Tensors& values) {
  const c10::NoGradGuard no_grad;
  for (size_t i = 0; i < targets.size(); ++i) targets[i].copy_(values[i]);
}

}  // namespace

struct VirtualRanks::Impl {
  World& world;
  std::shared_ptr<torch::nn::Module> module;
  int64_t shards;
  NamedTensors named;
  Tensors parameters;                    // the same
  std::vector<at::TensorOptions> kinds;  // of these at construction
  Tensors buffers;
  Tensors flat;   // one for each dtype, with more than one rank
  Tensors views;  // of flat, one for each parameter and with its strides

  std::weak_ptr<const char> life_of_world;

  Impl(World& of, std::shared_ptr<torch::nn::Module> parallel, int64_t count)
      : world(of), module(std::move(parallel)), shards(count), life_of_world(of.impl().life) {}

  void look_for_world() const {
    if (!life_of_world.expired()) return;
    throw Error(ExitCode::usage, "the World ended before its VirtualRanks",
                "build the World first, so that it ends last");
  }

  void look_for_changes() const {
    for (size_t i = 0; i < parameters.size(); ++i) {
      const at::Tensor& parameter = parameters[i];
      if (parameter.scalar_type() == c10::typeMetaToScalarType(kinds[i].dtype()) &&
          parameter.device() == kinds[i].device()) {
        continue;
      }
      throw Error(ExitCode::usage,
                  fmt::format("parameter {} was converted or moved since the virtual ranks were made", named[i].first),
                  "convert and move the module first");
    }
  }

  // Gradients of the shard that just ran.
  Tensors take_gradients() {
    Tensors taken;
    for (const auto& [name, parameter] : named) {
      refuse_sparse_gradient(name, parameter);
      at::Tensor& gradient = parameter.mutable_grad();
      taken.push_back(gradient.defined() ? gradient : at::zeros_like(parameter));
      gradient = at::Tensor();
    }
    return taken;
  }

  void make_flat() {
    std::map<at::ScalarType, int64_t> sizes;
    for (const at::Tensor& parameter : parameters) sizes[parameter.scalar_type()] += parameter.numel();
    std::map<at::ScalarType, at::Tensor> by_type;
    for (const auto& [type, elements] : sizes) {
      by_type[type] = at::empty({elements}, at::TensorOptions(type).device(parameters[0].device()));
      share_storage(world, by_type[type]);
      flat.push_back(by_type[type]);
    }
    std::map<at::ScalarType, int64_t> used;
    for (const at::Tensor& parameter : parameters) {
      int64_t& first = used[parameter.scalar_type()];
      const at::Tensor part = by_type[parameter.scalar_type()].narrow(0, first, parameter.numel());
      const at::Tensor view = parameter.is_non_overlapping_and_dense()
                                  ? part.as_strided(parameter.sizes(), parameter.strides())
                                  : part.view(parameter.sizes());
      views.push_back(view.variable_data());  // for autograd no view, so that Optimizer::zero_grad can detach it
      first += parameter.numel();
    }
  }
};

VirtualRanks::VirtualRanks(World& world, std::shared_ptr<torch::nn::Module> module, int64_t virtual_ranks)
    : impl_(std::make_unique<Impl>(world, std::move(module), virtual_ranks)) {
  if (!power_of_two(virtual_ranks) || !power_of_two(world.size()) || virtual_ranks < world.size()) {
    throw Error(ExitCode::launch,
                fmt::format("{} virtual ranks cannot be dealt to {} ranks", virtual_ranks, world.size()),
                "both are powers of two, and there are at least as many virtual ranks as ranks");
  }
  const c10::NoGradGuard no_grad;
  Impl& my = *impl_;
  std::vector<std::string> lines = {"no module"};
  if (my.module) lines = describe_module(*my.module);
  lines.push_back(fmt::format("virtual ranks {}", virtual_ranks));
  agree(world, "the module", lines);
  refuse_no_module("VirtualRanks", my.module.get());
  refuse_unusual_tensors(*my.module);
  my.named = trainable_parameters(*my.module);
  for (const auto& [name, parameter] : my.named) {
    my.parameters.push_back(parameter);
    my.kinds.push_back(parameter.options());
  }
  my.buffers = my.module->buffers();
  std::erase_if(my.buffers, [](const at::Tensor& buffer) { return !buffer.defined(); });
  if (world.size() > 1) my.make_flat();
  follow_rank_0(world, lockstep::parameters(*my.module));
  follow_rank_0(world, my.buffers);
}

VirtualRanks::~VirtualRanks() = default;

int64_t VirtualRanks::count() const { return impl_->shards / impl_->world.size(); }
int64_t VirtualRanks::first() const { return count() * impl_->world.rank(); }

void VirtualRanks::step(const std::function<void(int64_t)>& backward) {
  Impl& my = *impl_;
  sync_buffers();
  my.look_for_changes();
  const Tensors start = copies(my.buffers);
  Tensors after_shard_0;
  // Sums of whole subtrees, the larger ones first: a shard is a leaf, and two neighbours of equal size become one.
  struct Subtree {
    int64_t leaves;
    Tensors sum;
  };
  std::vector<Subtree> subtrees;
  my.take_gradients();
  for (int64_t i = 0; i < count(); ++i) {
    if (i > 0) assign(my.buffers, start);
    backward(first() + i);
    if (first() + i == 0) after_shard_0 = copies(my.buffers);
    const c10::NoGradGuard no_grad;
    subtrees.push_back({1, my.take_gradients()});
    while (subtrees.size() > 1 && subtrees.back().leaves == subtrees[subtrees.size() - 2].leaves) {
      const Subtree right = std::move(subtrees.back());
      subtrees.pop_back();
      at::_foreach_add_(subtrees.back().sum, right.sum);
      subtrees.back().leaves *= 2;
    }
  }
  if (my.world.rank() == 0) assign(my.buffers, after_shard_0);

  const Tensors& mine = subtrees.at(0).sum;
  if (my.world.size() == 1) {
    for (size_t i = 0; i < my.parameters.size(); ++i) my.parameters[i].mutable_grad() = mine[i];
    return;
  }
  const c10::NoGradGuard no_grad;
  assign(my.views, mine);
  for (at::Tensor& part : my.flat) tree_sum(my.world, part);
  for (size_t i = 0; i < my.parameters.size(); ++i) my.parameters[i].mutable_grad() = my.views[i];
}

void VirtualRanks::sync_buffers() {
  impl_->look_for_world();
  follow_rank_0(impl_->world, impl_->buffers);
}

}  // namespace lockstep
