// The class of the networks that recipes name.
#pragma once

#include <torch/nn/module.h>

#include <cstdint>
#include <string>

namespace lockstep {

/// A classifier of CIFAR-10 images.
class Net : public torch::nn::Module {
 public:
  /// images: float32 [n, 3, 32, 32] → logits [n, 10]. Local.
  virtual at::Tensor forward(at::Tensor images) = 0;

  /// Parameters that an optimizer may treat unlike (optim.name = muon).
  enum class Kind { filter, bias, head, whitening_bias };
  /// By default: filters have four dimensions, matrices are heads, all else is a bias.
  virtual Kind kind_of(const std::string& /*name*/, const at::Tensor& parameter) const {
    return parameter.dim() == 4 ? Kind::filter : parameter.dim() == 2 ? Kind::head : Kind::bias;
  }

  /// How many training images `prepare` looks at; 0: there is nothing to prepare.
  virtual int64_t images_to_prepare() const { return 0; }

  /// Local; before the first step of a run, and never when it is resumed: sets initial values that depend on the data.
  /// Who trains calls it on rank 0 and hands its parameters to all others afterwards, as the constructors of
  /// DistributedDataParallel and VirtualRanks do. images: float32 [images_to_prepare() or fewer, 3, 32, 32] in host
  /// memory, as the net is trained with, but neither mirrored nor shifted.
  virtual void prepare(const at::Tensor& /*images*/) {}

  /// Local; before the first step: into how many forward passes one after the other the images of a step are cut on
  /// each rank. A net whose statistics run over steps then takes smaller shares from each.
  virtual void set_passes_per_step(int64_t /*passes*/) {}
};

}  // namespace lockstep
