// The parameters of a module, each once: what an optimizer takes.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "lockstep/weights.h"

namespace torch::nn {
class Module;
}

namespace lockstep {

/// The parameters in order of registration, as Python's `module.parameters()`: one that layers share is there once.
/// LibTorch's Module::parameters() lists it once for each layer, so that an optimizer steps it twice. Local.
std::vector<at::Tensor> parameters(const torch::nn::Module& module);

/// The same with their names; a shared one has its first.
NamedTensors named_parameters(const torch::nn::Module& module);

}  // namespace lockstep
