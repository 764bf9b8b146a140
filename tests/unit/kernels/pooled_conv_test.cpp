#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <vector>

#include "conv_cases.h"
#include "differences.h"
#include "kernels/conv/pooled_gradient.h"
#include "kernels/processor.h"
#include "lockstep/fast_conv.h"
#include "lockstep/max_pool.h"
#include "train/device_path.h"

namespace lockstep::kernels {
namespace {

using namespace test;

class FastConvPooled : public testing::TestWithParam<ConvCase> {};

TEST_P(FastConvPooled, AgreesWithOneAfterTheOther) {
  at::manual_seed(2);
  const torch::nn::Conv2dOptions options = GetParam().options;
  const bool of_images = GetParam().of_images;
  const FastConv2d conv(options);
  for (const auto& [count, height, width] : {std::array<int64_t, 3>{1, 13, 17}, {19, 14, 16}, {9, 8, 9}, {2, 40, 7}}) {
    for (const bool autocast : {false, true}) {
      SCOPED_TRACE(testing::Message() << count << " images of " << height << 'x' << width
                                      << (autocast ? ", bf16" : ""));
      const at::Tensor images = at::randn({count, options.in_channels(), height, width}).contiguous(kChannelsLast);
      at::Tensor incoming;
      const auto one_after_the_other = [&](const at::Tensor& values, FastConv2dImpl& one) {
        if (!autocast || has_fast_bfloat16() || values.is_contiguous()) return max_pool2x2(one.forward(values));
        // In float32 where that is faster; what is pooled is rounded.
        const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::DispatchKey::AutocastCPU);
        return max_pool2x2(one.forward(values.to(at::kFloat))).to(at::kBFloat16);
      };
      const PooledResults apart = pooled_results(conv, images, of_images, autocast, incoming, one_after_the_other);
      const PooledResults together = pooled_results(
          conv, images, of_images, autocast, incoming,
          [](const at::Tensor& values, FastConv2dImpl& one) { return fast_conv2d_max_pool2x2(values, one); });
      EXPECT_TRUE(together.out.equal(apart.out));
      EXPECT_EQ(together.out.scalar_type(), autocast ? at::kBFloat16 : at::kFloat);
      EXPECT_TRUE(same_layout(together.out, apart.out)) << together.out.strides();
      if (of_images) {
        EXPECT_TRUE(together.of_images.equal(apart.of_images));
      }
      const double rounding = !autocast                                ? 1e-5
                              : by_winograd_in_bfloat16(images, *conv) ? kWinogradInBFloat16
                                                                       : kLastBitOfBFloat16;
      EXPECT_EQ(together.of_weight.scalar_type(), at::kFloat);
      EXPECT_TRUE(same_layout(together.of_weight, apart.of_weight)) << together.of_weight.strides();
      EXPECT_LT(difference(together.of_weight, apart.of_weight), rounding);
      if (options.bias()) {
        EXPECT_LT(difference(together.of_bias, apart.of_bias), rounding);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(OfFewChannels, FastConvPooled, kFewChannels);
INSTANTIATE_TEST_SUITE_P(OfMore, FastConvPooled,
                         testing::Values(ConvCase{Options(32, 32, 5).padding(2), true},
                                         ConvCase{Options(8, 8, 3), true},
                                         ConvCase{Options(24, 64, 3).padding(1).bias(false), true},
                                         ConvCase{Options(5, 32, {2, 7}).padding({0, 3})},
                                         ConvCase{Options(32, 32, 3).stride(2).padding(3), true},
                                         ConvCase{Options(1, 32, 3), true},
                                         ConvCase{Options(256, 64, 3).padding(1), true}));

// Sums of float32 lose less than what bfloat16 is rounded to.
TEST(FastConv, PooledInBFloat16SumsGradientsInFloat32) {
  at::manual_seed(6);
  FastConv2d conv(Options(12, 32, 3).padding(1));
  const at::Tensor images = at::randn({20, 12, 11, 14}).to(at::kBFloat16).to(at::kFloat).contiguous(kChannelsLast);
  {
    const Autocast autocast(at::kCPU, "bf16");
    if (!pooled_gradient_takes(images, *conv)) GTEST_SKIP() << "this processor has no fast products of bfloat16";
  }
  conv->weight.set_data(conv->weight.to(at::kBFloat16).to(at::kFloat));
  at::Tensor incoming;
  const auto pooled = [](const at::Tensor& values, FastConv2dImpl& one) {
    return fast_conv2d_max_pool2x2(values, one);
  };
  const PooledResults own = pooled_results(conv, images, false, true, incoming, pooled);
  // The winners are those of the rounded outputs.
  const at::Tensor outputs = [&] {
    const Autocast autocast(at::kCPU, "bf16");
    return conv->torch::nn::Conv2dImpl::forward(images).detach();
  }();
  const at::Tensor of_outputs = outputs.clone().requires_grad_(true);
  max_pool2x2(of_outputs).backward(incoming);
  const at::Tensor values = images.to(at::kDouble), gradient = of_outputs.grad().to(at::kDouble);
  const auto exact = std::dynamic_pointer_cast<FastConv2dImpl>(conv->clone());
  exact->to(at::kDouble);
  exact->torch::nn::Conv2dImpl::forward(values).backward(gradient);
  EXPECT_LT(difference(own.of_weight, exact->weight.grad()), 1e-5);
  EXPECT_LT(difference(own.of_bias, exact->bias.grad()), 1e-5);
}

TEST(FastConv, PooledLeavesFrozenWeightsAlone) {
  FastConv2d conv(Options(32, 32, 3));
  for (at::Tensor& parameter : conv->parameters()) parameter.requires_grad_(false);
  const at::Tensor images = at::randn({2, 32, 8, 8}).contiguous(kChannelsLast).requires_grad_(true);
  fast_conv2d_max_pool2x2(images, *conv).sum().backward();
  EXPECT_TRUE(images.grad().defined());
  EXPECT_FALSE(conv->weight.grad().defined());
  EXPECT_FALSE(fast_conv2d_max_pool2x2(images.detach(), *conv).requires_grad());
}

TEST(FastConv, PooledHasTheSameBitsWithAnyNumberOfThreads) {
  at::manual_seed(2);
  const FastConv2d conv(Options(3, 32, 5).padding(2)), second(Options(32, 64, 5).padding(2));
  const at::Tensor images = at::randn({150, 3, 12, 12}).contiguous(kChannelsLast);
  const at::Tensor between = at::randn({150, 32, 6, 6}).contiguous(kChannelsLast);
  const int before = at::get_num_threads();
  const auto pooled = [](const at::Tensor& values, FastConv2dImpl& one) {
    return fast_conv2d_max_pool2x2(values, one);
  };
  if (!pooled_gradient_takes(images, *conv)) GTEST_SKIP() << "this processor has no AVX-512: LibTorch's loops";
  for (const bool autocast : {false, true}) {
    if (autocast && !has_fast_bfloat16_vectors()) continue;
    std::vector<PooledResults> all;
    at::Tensor incoming, incoming_between;
    for (const int threads : {1, 2, 3}) {
      at::set_num_threads(threads);
      all.push_back(pooled_results(conv, images, false, autocast, incoming, pooled));
      all.push_back(pooled_results(second, between, false, autocast, incoming_between, pooled));
    }
    at::set_num_threads(before);
    for (size_t i = 2; i < all.size(); ++i) {
      EXPECT_TRUE(all[i].of_weight.equal(all[i % 2].of_weight)) << i;
      EXPECT_TRUE(all[i].of_bias.equal(all[i % 2].of_bias)) << i;
    }
  }
}

TEST(FastConv, PooledTakesWhatItsLoopsAreMadeFor) {
  if (best_processor() != Processor::avx512) GTEST_SKIP() << "this processor has no AVX-512: LibTorch's loops";
  const at::Tensor images = at::randn({2, 32, 8, 8}).contiguous(kChannelsLast);
  const auto takes = [&](const Options& options) { return pooled_gradient_takes(images, *FastConv2d(options)); };
  EXPECT_TRUE(takes(Options(32, 64, 5).padding(2)));
  EXPECT_TRUE(takes(Options(32, 32, {7, 1})));
  EXPECT_FALSE(takes(Options(32, 32, {8, 1})));  // of one row no window is left
  EXPECT_FALSE(takes(Options(32, 48, 3)));
  EXPECT_FALSE(takes(Options(32, 32, 3).stride(2)));
  EXPECT_FALSE(takes(Options(32, 32, 3).dilation(2)));
  EXPECT_FALSE(takes(Options(32, 32, 3).groups(2)));
  EXPECT_FALSE(takes(Options(32, 32, 3).padding(torch::kSame)));
  EXPECT_FALSE(pooled_gradient_takes(images.contiguous(), *FastConv2d(Options(32, 32, 3))));
  EXPECT_FALSE(pooled_gradient_takes(images.to(at::kDouble), *FastConv2d(Options(32, 32, 3))));
  const Autocast autocast(at::kCPU, "bf16");
  EXPECT_EQ(takes(Options(32, 64, 5).padding(2)), has_fast_bfloat16_vectors());
}

}  // namespace
}  // namespace lockstep::kernels
