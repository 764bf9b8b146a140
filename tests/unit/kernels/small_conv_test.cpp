#include <ATen/TensorOperators.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "conv_cases.h"
#include "differences.h"
#include "kernels/conv/small_conv.h"
#include "kernels/processor.h"
#include "lockstep/fast_conv.h"
#include "train/device_path.h"

namespace lockstep::kernels {
namespace {

using test::difference;
using test::kChannelsLast;

TEST(WeightGradientByProducts, IsTheConvolutions) {
  at::manual_seed(1);
  for (const int64_t kernel : {1, 3, 5}) {
    for (const auto& [height, width] : {std::pair<int64_t, int64_t>{7, 7}, {3, 5}, {1, 1}}) {
      const at::Tensor images = at::randn({5, 16, height, width}, at::kDouble).contiguous(kChannelsLast);
      const at::Tensor weight = at::randn({24, 16, kernel, kernel}, at::kDouble).requires_grad_(true);
      const at::Tensor out = at::conv2d(images, weight, {}, 1, (kernel - 1) / 2);
      const at::Tensor incoming = at::randn_like(out).contiguous(kChannelsLast);
      out.backward(incoming);
      EXPECT_LT(difference(weight_gradient_by_products(images, incoming, kernel), weight.grad()), 1e-12)
          << kernel << ' ' << height << ' ' << width;
    }
  }
}

// As autocast does it, so that the module's weights are float32. Against double precision, because LibTorch's own
// rounding in bfloat16 depends on the processor.
TEST(SmallConv, AgreesWithDoublePrecisionUnderAutocast) {
  at::manual_seed(2);
  FastConv2d conv(torch::nn::Conv2dOptions(32, 64, 3).padding(1).bias(false));
  conv->weight.set_data(conv->weight.contiguous(kChannelsLast));
  std::vector<at::Tensor> outs, of_images, of_weights;
  const at::Tensor values = at::randn({9, 32, 7, 7}).contiguous(kChannelsLast);
  at::Tensor incoming;
  for (const bool own : {false, true}) {
    const at::Tensor images = values.clone().requires_grad_(true);
    at::Tensor out;
    {
      const Autocast autocast(at::kCPU, "bf16");
      out = own ? fast_conv2d(images, *conv) : conv->torch::nn::Conv2dImpl::forward(images);
    }
    EXPECT_EQ(out.scalar_type(), at::kBFloat16);
    if (!incoming.defined()) incoming = at::randn_like(out);
    out.backward(incoming);
    outs.push_back(out.detach());
    of_images.push_back(images.grad());
    of_weights.push_back(conv->weight.grad().clone());
    conv->weight.mutable_grad() = at::Tensor();
  }
  if (has_bfloat16_tiles()) {
    EXPECT_TRUE(outs[1].equal(outs[0]));
    EXPECT_TRUE(of_images[1].equal(of_images[0]));
  }
  // More where Winograd's method rounds its transforms.
  const double rounding = has_fast_bfloat16_vectors() ? test::kWinogradInBFloat16 : test::kRoundedInBFloat16;
  const test::ConvResults exact = test::conv_results(values, incoming, conv, false, true);
  EXPECT_LT(difference(outs[1], exact.out), rounding);
  EXPECT_LT(difference(of_images[1], exact.of_images), rounding);
  EXPECT_EQ(of_weights[1].scalar_type(), at::kFloat);
  EXPECT_LT(difference(of_weights[1], exact.of_weight), rounding);
}

}  // namespace
}  // namespace lockstep::kernels
