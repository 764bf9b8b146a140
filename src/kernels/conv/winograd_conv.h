// Convolutions with 3x3 and 5x5 kernels in fewer products.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/modules/conv.h>

namespace lockstep::kernels {

/// Whether winograd_conv2d takes this (lockstep/fast_conv.h says what).
bool winograd_takes(const at::Tensor& images, const torch::nn::Conv2dImpl& conv);

/// conv(images) by Winograd's method. Without of_weights: with a gradient for images only.
at::Tensor winograd_conv2d(const at::Tensor& images, const torch::nn::Conv2dImpl& conv, bool of_weights = true);

}  // namespace lockstep::kernels
