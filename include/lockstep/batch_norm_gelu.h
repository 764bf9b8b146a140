// Batch norm and GELU in one operator, and GELU alone, faster than LibTorch's where images are channels_last on a CPU.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/modules/batchnorm.h>

namespace lockstep {

/// images: float32 or bfloat16 [n, c, h, w] → gelu(norm(images)), same shape, dtype and layout; `norm` is an ordinary
/// module of c features and is used and updated as its own forward would (running statistics, their count, training or
/// not). With dense channels_last images on a CPU, a float32 affine `norm` that tracks statistics, it is one operator
/// of ours: two passes over the images each way and nothing kept but them. Everything else is done by LibTorch.
///
/// Computed in float32 whatever the images are; sums over images are added in an order that does not depend on threads.
/// Agrees with LibTorch to rounding (in bfloat16 it rounds less often), not bit for bit. GELU is the exact one,
/// x Φ(x), not its approximation by tanh; Φ is a polynomial between -5 and 5 and constant beyond, off by at most 4e-7
/// (src/kernels/norm_gelu_kernels.cpp), the derivative by 1e-5. Local. Has no second derivative: backward with
/// create_graph throws c10::Error.
at::Tensor batch_norm_gelu(const at::Tensor& images, torch::nn::BatchNorm2d& norm);

/// x Φ(x) of every value, in the same way: dense float32 and bfloat16 on a CPU by ours, everything else by LibTorch.
at::Tensor fast_gelu(const at::Tensor& values);

}  // namespace lockstep
