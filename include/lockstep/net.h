// The class of the networks that recipes name.
#pragma once

#include <torch/nn/module.h>

namespace lockstep {

/// A classifier of CIFAR-10 images.
class Net : public torch::nn::Module {
 public:
  /// images: float32 [n, 3, 32, 32] → logits [n, 10]. Local.
  virtual at::Tensor forward(at::Tensor images) = 0;
};

}  // namespace lockstep
