#include "lockstep/virtual_ranks.h"

#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <torch/nn/module.h>

#include <bit>
#include <map>

#include "comm/group.h"
#include "ddp/agreement.h"
#include "ddp/module_state.h"
#include "ddp/tree_sum.h"
#include "lockstep/error.h"
#include "lockstep/world.h"

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
  Tensors parameters;
  Tensors buffers;
  Tensors flat;   // one for each dtype, with more than one rank
  Tensors views;  // of flat, one for each parameter and with its strides

  Impl(World& of, std::shared_ptr<torch::nn::Module> parallel, int64_t count)
      : world(of), module(std::move(parallel)), shards(count) {}

  // Gradients of the shard that just ran.
  Tensors take_gradients() {
    Tensors taken;
    for (at::Tensor& parameter : parameters) {
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
      views.push_back(parameter.is_non_overlapping_and_dense() ? part.as_strided(parameter.sizes(), parameter.strides())
                                                               : part.view(parameter.sizes()));
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
  for (const auto& [name, parameter] : trainable_parameters(*my.module)) my.parameters.push_back(parameter);
  my.buffers = my.module->buffers();
  std::vector<std::string> lines = describe_module(*my.module);
  lines.push_back(fmt::format("virtual ranks {}", virtual_ranks));
  agree(world, "the module", lines);
  if (world.size() > 1) my.make_flat();
  follow_rank_0(world, my.module->parameters());
  follow_rank_0(world, my.buffers);
}

VirtualRanks::~VirtualRanks() = default;

int64_t VirtualRanks::count() const { return impl_->shards / impl_->world.size(); }
int64_t VirtualRanks::first() const { return count() * impl_->world.rank(); }

void VirtualRanks::step(const std::function<void(int64_t)>& backward) {
  Impl& my = *impl_;
  sync_buffers();
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

void VirtualRanks::sync_buffers() { follow_rank_0(impl_->world, impl_->buffers); }

}  // namespace lockstep
