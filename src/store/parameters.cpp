#include "lockstep/parameters.h"

#include <torch/nn/module.h>

#include <unordered_set>

namespace lockstep {

NamedTensors named_parameters(const torch::nn::Module& module) {
  NamedTensors found;
  std::unordered_set<const c10::TensorImpl*> known;
  for (const auto& parameter : module.named_parameters()) {
    if (known.insert(parameter.value().unsafeGetTensorImpl()).second) {
      found.emplace_back(parameter.key(), parameter.value());
    }
  }
  return found;
}

std::vector<at::Tensor> parameters(const torch::nn::Module& module) {
  std::vector<at::Tensor> found;
  for (auto& parameter : named_parameters(module)) found.push_back(std::move(parameter.second));
  return found;
}

}  // namespace lockstep
