// Convolutions over small images in bfloat16, whose weights' gradient is made by matrix products.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/modules/conv.h>

namespace lockstep::kernels {

/// images: [n, in, h, w], gradient: [n, out, h, w], both channels_last, of one dtype; kernel: odd → [out, in, kernel,
/// kernel]: the gradient of the weights of a convolution of stride 1 with (kernel - 1) / 2 zeros around.
at::Tensor weight_gradient_by_products(const at::Tensor& images, const at::Tensor& gradient, int64_t kernel);

/// Whether small_conv2d takes this (lockstep/fast_conv.h says what).
bool small_conv_takes(const at::Tensor& images, const torch::nn::Conv2dImpl& conv);

/// conv(images). The weights' gradient has float32's sums, rounded to bfloat16 at the end, as LibTorch's.
at::Tensor small_conv2d(const at::Tensor& images, torch::nn::Conv2dImpl& conv);

}  // namespace lockstep::kernels
