// In place of the kernels, with LOCKSTEP_KERNELS=OFF: LibTorch's operators.
#include <ATen/ops/gelu.h>
#include <ATen/ops/max_pool2d.h>

#include "lockstep/batch_norm_gelu.h"
#include "lockstep/fast_conv.h"
#include "lockstep/max_pool.h"

namespace lockstep {

at::Tensor fast_conv2d(const at::Tensor& images, torch::nn::Conv2dImpl& conv) {
  return conv.torch::nn::Conv2dImpl::forward(images);
}

at::Tensor fast_conv2d_max_pool2x2(const at::Tensor& images, torch::nn::Conv2dImpl& conv) {
  return max_pool2x2(fast_conv2d(images, conv));
}

at::Tensor max_pool2x2(const at::Tensor& images) { return at::max_pool2d(images, 2); }

at::Tensor batch_norm_gelu(const at::Tensor& images, torch::nn::BatchNorm2d& norm) {
  return fast_gelu(norm->forward(images));
}

at::Tensor fast_gelu(const at::Tensor& values) { return at::gelu(values); }

}  // namespace lockstep
