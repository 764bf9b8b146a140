#include "lockstep/fast_conv.h"

#include <ATen/record_function.h>

#include "ops/image_conv.h"
#include "ops/small_conv.h"
#include "ops/winograd_conv.h"

namespace lockstep {

at::Tensor fast_conv2d(const at::Tensor& images, torch::nn::Conv2dImpl& conv) {
  RECORD_FUNCTION("lockstep::fast_conv2d", c10::ArrayRef<c10::IValue>());
  if (image_conv_takes(images, conv)) return image_conv2d(images, conv);
  if (winograd_takes(images, conv)) return winograd_conv2d(images, conv);
  if (small_conv_takes(images, conv)) return small_conv2d(images, conv);
  return conv.torch::nn::Conv2dImpl::forward(images);
}

// Conv2dImpl's would make a Conv2dImpl.
std::shared_ptr<torch::nn::Module> FastConv2dImpl::clone(const std::optional<at::Device>& device) const {
  const at::NoGradGuard no_grad;
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
