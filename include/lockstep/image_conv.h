// The first convolution of a network for images, faster than LibTorch's on CPUs with AVX-512.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/modules/conv.h>

#include <memory>
#include <optional>

namespace lockstep {

/// images: [n, c, h, w] → conv(images), as the module's own forward. With images of at most 4 channels that need no
/// gradient, float32, dense and channels_last, outside autocast, and a convolution of stride 1 to a multiple of 32
/// channels, on a CPU with AVX-512, by loops of our own: LibTorch's are made for many input channels and reach half
/// the processor's speed with three. Everything else is LibTorch's.
///
/// Agrees with LibTorch to rounding, not bit for bit; sums are added in an order that does not depend on threads.
/// Local. Has no second derivative: backward with create_graph throws c10::Error.
at::Tensor image_conv2d(const at::Tensor& images, torch::nn::Conv2dImpl& conv);

/// A torch::nn::Conv2d that does so, with the same options, parameters, names and initial values.
class ImageConv2dImpl : public torch::nn::Conv2dImpl {
 public:
  using torch::nn::Conv2dImpl::Conv2dImpl;
  at::Tensor forward(const at::Tensor& images) { return image_conv2d(images, *this); }
  std::shared_ptr<torch::nn::Module> clone(const std::optional<at::Device>& device = std::nullopt) const override;
};
TORCH_MODULE(ImageConv2d);

}  // namespace lockstep
