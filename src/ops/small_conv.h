// The gradient of a convolution's weights by matrix products.
#pragma once

#include <ATen/core/Tensor.h>

namespace lockstep {

/// images: [n, in, h, w], gradient: [n, out, h, w], both channels_last, of one dtype; kernel: odd → [out, in, kernel,
/// kernel]: the gradient of the weights of a convolution of stride 1 with (kernel - 1) / 2 zeros around.
at::Tensor weight_gradient_by_products(const at::Tensor& images, const at::Tensor& gradient, int64_t kernel);

}  // namespace lockstep
