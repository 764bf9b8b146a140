// Convolutions of images of few channels, in float32.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/modules/conv.h>

namespace lockstep {

/// Whether image_conv2d takes this (lockstep/fast_conv.h says what).
bool image_conv_takes(const at::Tensor& images, const torch::nn::Conv2dImpl& conv);

/// Whether it can pool them, too.
bool image_conv_pools(const at::Tensor& images, const torch::nn::Conv2dImpl& conv);

/// conv(images), or max_pool2x2 of it, whose bits are the same in one pass; sums are added in an order that does not
/// depend on threads.
at::Tensor image_conv2d(const at::Tensor& images, torch::nn::Conv2dImpl& conv, bool pooled = false);

}  // namespace lockstep
