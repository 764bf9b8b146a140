// Max-pooling over 2x2 windows, faster than LibTorch's on a CPU.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>

namespace lockstep {

/// images: float32 or bfloat16 [n, c, h, w], h and w at least 2 → [n, c, h/2, w/2], the largest value of each window
/// (an odd last row or column belongs to none): at::max_pool2d(images, 2), bit for bit, and its gradient: of equal
/// values the first of a window (row by row) gets it, and a NaN wins.
///
/// Dense images on a CPU, contiguous or channels_last, go through kernels of our own, chosen by what the processor can
/// do (AVX-512, AVX2, or neither); they keep one byte an output for backward, where LibTorch keeps eight. Everything
/// else goes to at::max_pool2d. Memory format and dtype stay as they are. Local; any thread. Our kernels have no second
/// derivative: backward with create_graph throws c10::Error.
at::Tensor max_pool2x2(const at::Tensor& images);

/// The same as a module without parameters, for torch::nn::Sequential.
class MaxPool2x2Impl : public torch::nn::Cloneable<MaxPool2x2Impl> {
 public:
  void reset() override {}
  at::Tensor forward(const at::Tensor& images) { return max_pool2x2(images); }
};
TORCH_MODULE(MaxPool2x2);

}  // namespace lockstep
