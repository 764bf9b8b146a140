// Convolutions that a 2x2 max-pool follows: the gradient of their weights, from the winners alone.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/modules/conv.h>

namespace lockstep::kernels {

/// Whether with_pooled_gradient takes this: images may need a gradient.
bool pooled_gradient_takes(const at::Tensor& images, const torch::nn::Conv2dImpl& conv);

/// `pooled`, from whose gradient those of conv's weight and bias are made here. pooled: max_pool2x2 of conv(images)
/// with gradients for images at most; winners: the places of its values in their windows, 0 to 3 row by row. Sums are
/// added in an order that does not depend on threads.
at::Tensor with_pooled_gradient(const at::Tensor& pooled, const at::Tensor& winners, const at::Tensor& images,
                                const torch::nn::Conv2dImpl& conv);

}  // namespace lockstep::kernels
