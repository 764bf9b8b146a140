#include "ddp/module_state.h"

#include <ATen/ops/cat.h>
#include <c10/core/GradMode.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <map>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "lockstep/world.h"

namespace lockstep {

std::vector<std::pair<std::string, at::Tensor>> trainable_parameters(const torch::nn::Module& module) {
  std::vector<std::pair<std::string, at::Tensor>> found;
  for (const auto& parameter : module.named_parameters()) {
    const at::Tensor& tensor = parameter.value();
    const bool known =
        std::any_of(found.begin(), found.end(), [&](const auto& other) { return other.second.is_same(tensor); });
    if (tensor.requires_grad() && !known) found.emplace_back(parameter.key(), tensor);
  }
  return found;
}

void follow_rank_0(World& world, const std::vector<at::Tensor>& tensors) {
  const c10::NoGradGuard no_grad;
  std::map<at::ScalarType, std::vector<at::Tensor>> by_type;
  for (const at::Tensor& tensor : tensors) {
    if (tensor.numel() > 0) by_type[tensor.scalar_type()].push_back(tensor.detach());
  }
  for (auto& [type, list] : by_type) {
    const auto on_the_way = type == at::kBool ? at::kByte : type;
    std::vector<at::Tensor> flat;
    for (const at::Tensor& tensor : list) flat.push_back(tensor.reshape({-1}).to(on_the_way));
    std::vector<at::Tensor> message = {at::cat(flat)};
    world.process_group()->broadcast(message)->wait();
    if (world.rank() == 0) continue;
    int64_t first = 0;
    for (at::Tensor& tensor : list) {
      tensor.copy_(message[0].narrow(0, first, tensor.numel()).view(tensor.sizes()));
      first += tensor.numel();
    }
  }
}

void follow_each_rank(World& world, const std::vector<at::Tensor>& parts) {
  const auto& group = world.process_group();
  std::vector<c10::intrusive_ptr<c10d::Work>> under_way;
  for (size_t rank = 0; rank < parts.size(); ++rank) {
    if (parts[rank].numel() == 0) continue;
    std::vector<at::Tensor> message = {parts[rank]};
    c10d::BroadcastOptions options;
    options.rootRank = static_cast<int64_t>(rank);
    under_way.push_back(group->broadcast(message, options));
  }
  for (const auto& work : under_way) work->wait();
}

}  // namespace lockstep
