// What the optimizer keeps for each parameter, by the parameter's name.
#pragma once

#include <torch/optim/sgd.h>

#include "lockstep/net.h"
#include "lockstep/weights.h"

namespace lockstep {

/// "NAME.momentum_buffer" for each parameter that has one, sharing the optimizer's memory.
NamedTensors optimizer_state(const Net& net, const torch::optim::SGD& optimizer);

/// Puts copies of such tensors into the optimizer, with dtype, device and layout of their parameters. Throws Error
/// (damaged) for a tensor that belongs to no parameter or has another shape than its own.
void load_optimizer_state(const Net& net, torch::optim::SGD& optimizer, const NamedTensors& tensors,
                          const std::string& where);

}  // namespace lockstep
