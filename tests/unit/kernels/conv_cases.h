// What the tests of convolutions share: cases, and what a step makes of them.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <memory>
#include <optional>
#include <ostream>

#include "differences.h"
#include "kernels/conv/winograd_conv.h"
#include "lockstep/fast_conv.h"
#include "train/device_path.h"

namespace lockstep::test {

struct ConvResults {
  at::Tensor out, of_images, of_weight, of_bias;
};

inline ConvResults conv_results(const at::Tensor& values, const at::Tensor& incoming, const FastConv2d& like, bool own,
                                bool of_images = false) {
  const auto conv = std::dynamic_pointer_cast<FastConv2dImpl>(like->clone());
  if (!own) conv->to(at::kDouble);
  const at::Tensor images = (own ? values : values.to(at::kDouble)).detach().requires_grad_(of_images);
  const at::Tensor out = own ? conv->forward(images) : conv->torch::nn::Conv2dImpl::forward(images);
  out.backward(own ? incoming : incoming.to(at::kDouble));
  return {out.detach(), images.grad(), conv->weight.grad(), conv->bias.defined() ? conv->bias.grad() : at::Tensor()};
}

struct ConvCase {
  torch::nn::Conv2dOptions options;
  bool of_images = false;  // whether their gradient is wanted
  double rounding = 2e-6;  // of outputs, of the largest
};

inline void PrintTo(const ConvCase& of, std::ostream* to) {
  *to << of.options.in_channels() << " to " << of.options.out_channels() << ", kernel " << of.options.kernel_size();
}

using Options = torch::nn::Conv2dOptions;
inline const auto kFewChannels =
    testing::Values(ConvCase{Options(3, 32, 5).padding(2)}, ConvCase{Options(3, 64, 3).padding(1).bias(false)},
                    ConvCase{Options(1, 96, {7, 2}).padding({0, 3})}, ConvCase{Options(4, 32, 1)});
// What a step makes of the same images, and of a gradient of what comes out.
struct PooledResults {
  at::Tensor out, of_images, of_weight, of_bias;
};

template <typename Way>
PooledResults pooled_results(const FastConv2d& like, const at::Tensor& values, bool of_images, bool autocast,
                             at::Tensor& incoming, const Way& way) {
  const auto conv = std::dynamic_pointer_cast<FastConv2dImpl>(like->clone());
  const at::Tensor images = values.detach().clone().requires_grad_(of_images);
  at::Tensor out;
  {
    std::optional<Autocast> in_bfloat16;
    if (autocast) in_bfloat16.emplace(at::kCPU, "bf16");
    out = way(images, *conv);
  }
  if (!incoming.defined()) incoming = at::randn_like(out);
  out.backward(incoming);
  return {out.detach(), images.grad(), conv->weight.grad(), conv->bias.defined() ? conv->bias.grad() : at::Tensor()};
}

inline constexpr double kLastBitOfBFloat16 = 8e-3;  // 2^-7
// Images, weights and what comes out are rounded once each, by at most 2^-8 of a value, in any order of sums.
inline constexpr double kRoundedInBFloat16 = 3 * 0x1p-8;
inline constexpr double kWinogradInBFloat16 = 3e-2;

inline bool by_winograd_in_bfloat16(const at::Tensor& images, const torch::nn::Conv2dImpl& conv) {
  const Autocast autocast(at::kCPU, "bf16");
  return kernels::winograd_takes(images, conv);
}

}  // namespace lockstep::test
