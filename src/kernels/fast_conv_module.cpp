#include <c10/core/GradMode.h>

#include "lockstep/fast_conv.h"

namespace lockstep {

// Conv2dImpl's would make a Conv2dImpl.
std::shared_ptr<torch::nn::Module> FastConv2dImpl::clone(const std::optional<at::Device>& device) const {
  const c10::NoGradGuard no_grad;
  const auto copy = std::make_shared<FastConv2dImpl>(
      torch::nn::Conv2dOptions(options.in_channels(), options.out_channels(), options.kernel_size())
          .stride(options.stride())
          .padding(options.padding())
          .dilation(options.dilation())
          .groups(options.groups())
          .bias(options.bias())
          .padding_mode(options.padding_mode()));
  const auto put = [&](at::Tensor& to, const at::Tensor& from) {
    if (!from.defined()) return;
    to.set_data(from.to(device.value_or(from.device()), /*non_blocking=*/false, /*copy=*/true));
    to.requires_grad_(from.requires_grad());
  };
  put(copy->weight, weight);
  put(copy->bias, bias);
  copy->train(is_training());
  return copy;
}

}  // namespace lockstep
