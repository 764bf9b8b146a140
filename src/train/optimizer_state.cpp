#include "train/optimizer_state.h"

#include <ATen/ops/empty_like.h>
#include <fmt/format.h>

#include <memory>

#include "lockstep/error.h"

namespace lockstep {
namespace {

constexpr const char* kMomentum = ".momentum_buffer";

}  // namespace

NamedTensors optimizer_state(const Net& net, const torch::optim::SGD& optimizer) {
  NamedTensors tensors;
  for (const auto& parameter : net.named_parameters()) {
    const auto kept = optimizer.state().find(parameter.value().unsafeGetTensorImpl());
    if (kept == optimizer.state().end()) continue;
    const auto& sgd = static_cast<const torch::optim::SGDParamState&>(*kept->second);
    if (sgd.momentum_buffer().defined()) tensors.emplace_back(parameter.key() + kMomentum, sgd.momentum_buffer());
  }
  return tensors;
}

void load_optimizer_state(const Net& net, torch::optim::SGD& optimizer, const NamedTensors& tensors,
                          const std::string& where) {
  const auto parameters = net.named_parameters();
  for (const auto& [name, tensor] : tensors) {
    const std::string owner =
        name.ends_with(kMomentum) ? name.substr(0, name.size() - std::string(kMomentum).size()) : "";
    const at::Tensor* const parameter = parameters.find(owner);
    if (parameter == nullptr || parameter->sizes() != tensor.sizes()) {
      throw Error(ExitCode::damaged, fmt::format("{}: the optimizer's tensor {} fits no parameter", where, name),
                  "this is a checkpoint of another network or optimizer");
    }
    auto state = std::make_unique<torch::optim::SGDParamState>();
    state->momentum_buffer(at::empty_like(parameter->detach()).copy_(tensor));
    optimizer.state()[parameter->unsafeGetTensorImpl()] = std::move(state);
  }
}

}  // namespace lockstep
