// Convolutions of images of few channels, in float32, and under autocast in bfloat16 with sums of float32.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/modules/conv.h>

#include "kernels/max_pool.h"

namespace lockstep::kernels {

/// Whether image_conv2d takes this (lockstep/fast_conv.h says what).
bool image_conv_takes(const at::Tensor& images, const torch::nn::Conv2dImpl& conv);

/// conv(images); sums are added in an order that does not depend on threads.
at::Tensor image_conv2d(const at::Tensor& images, const torch::nn::Conv2dImpl& conv);

/// max_pool2x2 of it, with the same bits, for outputs of 2x2 pixels or more. Without a gradient.
Pooled image_conv2d_max_pool2x2(const at::Tensor& images, const torch::nn::Conv2dImpl& conv);

}  // namespace lockstep::kernels
