// Test-time augmentation: logits averaged over several views of each image.
#pragma once

#include <ATen/core/Tensor.h>

#include "lockstep/evaluator.h"
#include "lockstep/settings.h"

namespace lockstep {

class Net;

/// What eval.tta says.
Tta tta_of(const Settings& settings);

/// Local: logits float32 [n, 10] for images [n, 3, 32, 32]; one forward pass a view, each in the net's own precision.
at::Tensor average_logits(Net& net, const at::Tensor& images, Tta tta);

}  // namespace lockstep
