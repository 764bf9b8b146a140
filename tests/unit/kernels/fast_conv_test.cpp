#include "lockstep/fast_conv.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "conv_cases.h"
#include "differences.h"
#include "kernels/conv/image_conv.h"
#include "kernels/conv/image_conv_kernels.h"
#include "kernels/processor.h"
#include "train/device_path.h"

namespace lockstep::kernels {
namespace {

using namespace test;

class FastConvOf : public testing::TestWithParam<ConvCase> {};

TEST_P(FastConvOf, AgreesWithDoublePrecisionForwardAndBackward) {
  at::manual_seed(1);
  const torch::nn::Conv2dOptions options = GetParam().options;
  const bool of_images = GetParam().of_images;
  const double rounding = GetParam().rounding;
  FastConv2d conv(options);
  bool turn = false;
  for (const auto& [count, height, width] : {std::array<int64_t, 3>{1, 13, 17}, {19, 13, 17}, {3, 8, 8}, {5, 7, 5}}) {
    SCOPED_TRACE(testing::Message() << count << " images of " << height << 'x' << width);
    const at::Tensor images = at::randn({count, options.in_channels(), height, width}).contiguous(kChannelsLast);
    const at::Tensor incoming = at::randn_like(conv->torch::nn::Conv2dImpl::forward(images).detach());
    turn = !turn;
    conv->weight.set_data(conv->weight.contiguous(turn ? kChannelsLast : at::MemoryFormat::Contiguous));
    const ConvResults exact = conv_results(images, incoming, conv, false, of_images);
    const ConvResults own = conv_results(images, incoming, conv, true, of_images);
    EXPECT_LT(difference(own.out, exact.out), rounding);
    EXPECT_TRUE(own.out.is_contiguous(kChannelsLast));
    EXPECT_LT(difference(own.of_weight, exact.of_weight), 1e-5);
    EXPECT_TRUE(same_layout(own.of_weight, conv->weight)) << own.of_weight.strides();
    if (of_images) {
      EXPECT_LT(difference(own.of_images, exact.of_images), rounding);
    }
    if (options.bias()) {
      EXPECT_LT(difference(own.of_bias, exact.of_bias), 1e-5);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(OfFewChannels, FastConvOf, kFewChannels);
INSTANTIATE_TEST_SUITE_P(ByWinograd, FastConvOf,
                         testing::Values(ConvCase{Options(32, 32, 5).padding(2), true, 5e-6},
                                         ConvCase{Options(32, 64, 5), true, 5e-6},
                                         ConvCase{Options(64, 32, 5).padding(4), true, 5e-6},
                                         ConvCase{Options(32, 32, 3).padding(1).bias(false), true, 5e-6},
                                         ConvCase{Options(64, 96, 3), false, 5e-6},
                                         ConvCase{Options(24, 64, 3).padding(1).bias(false), true, 5e-6},
                                         ConvCase{Options(17, 32, 5).padding(2), true, 5e-6},
                                         ConvCase{Options(48, 32, 3), true, 5e-6},
                                         ConvCase{Options(96, 32, 3).padding(2), true, 5e-6},
                                         ConvCase{Options(256, 192, 3).padding(1).bias(false), true, 4e-6}));
INSTANTIATE_TEST_SUITE_P(
    LibTorchs, FastConvOf,
    testing::Values(ConvCase{Options(3, 24, 3)}, ConvCase{Options(8, 32, 3), true},
                    ConvCase{Options(3, 32, 3).stride(2)}, ConvCase{Options(3, 32, 3).padding(torch::kSame), true},
                    ConvCase{Options(32, 32, 3).padding(torch::kSame), true}, ConvCase{Options(32, 32, {3, 5}), true},
                    ConvCase{Options(32, 32, 5).stride(2), true}, ConvCase{Options(32, 32, 3).dilation(2), true},
                    ConvCase{Options(32, 32, 3).groups(2), true}, ConvCase{Options(32, 32, 3).padding({0, 1}), true},
                    ConvCase{Options(15, 32, 3), true}, ConvCase{Options(32, 48, 3), true}));

class FastConvInBFloat16 : public testing::TestWithParam<ConvCase> {};

// Against double precision of the same rounded images and weights.
TEST_P(FastConvInBFloat16, OfFewChannelsRoundsOnlyWhatComesOut) {
  at::manual_seed(7);
  const torch::nn::Conv2dOptions options = GetParam().options;
  FastConv2d conv(options);
  conv->weight.set_data(conv->weight.to(at::kBFloat16).to(at::kFloat));
  for (const auto& [count, height, width] : {std::array<int64_t, 3>{1, 13, 17}, {19, 13, 16}, {3, 8, 8}, {5, 7, 5}}) {
    SCOPED_TRACE(testing::Message() << count << " images of " << height << 'x' << width);
    const at::Tensor images =
        at::randn({count, options.in_channels(), height, width}).to(at::kBFloat16).contiguous(kChannelsLast);
    {
      const Autocast autocast(at::kCPU, "bf16");
      if (!bfloat16_conv_kernels()) GTEST_SKIP() << "this processor has no fast products of bfloat16";
      ASSERT_TRUE(image_conv_takes(images, *conv));
    }
    at::Tensor incoming;
    const PooledResults own =
        pooled_results(conv, images, false, true, incoming,
                       [](const at::Tensor& values, FastConv2dImpl& one) { return one.forward(values); });
    const ConvResults exact = conv_results(images, incoming, conv, false);
    EXPECT_LT(difference(own.out, exact.out), kLastBitOfBFloat16 / 2);
    EXPECT_TRUE(own.out.is_contiguous(kChannelsLast));
    EXPECT_LT(difference(own.of_weight, exact.of_weight), 1e-5);
    if (options.bias()) {
      EXPECT_LT(difference(own.of_bias, exact.of_bias), 1e-5);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(OfFewChannels, FastConvInBFloat16, kFewChannels);

TEST(FastConv, IsOfFloat32UnderAutocastWhereThatIsFaster) {
  if (has_fast_bfloat16()) GTEST_SKIP() << "this processor is faster in bfloat16";
  at::manual_seed(4);
  for (const Options& options : {Options(32, 64, 3).padding(1), Options(32, 48, 3).stride(2)}) {
    FastConv2d conv(options);
    const at::Tensor images = at::randn({3, 32, 9, 9}).to(at::kBFloat16).contiguous(kChannelsLast);
    const at::Tensor floats = images.to(at::kFloat).requires_grad_(true);
    const at::Tensor halves = images.clone().requires_grad_(true);
    const at::Tensor expected = conv->clone()->as<FastConv2dImpl>()->forward(floats);
    const at::Tensor incoming = at::randn_like(expected).to(at::kBFloat16);
    expected.backward(incoming.to(at::kFloat));
    at::Tensor out;
    {
      const Autocast autocast(at::kCPU, "bf16");
      out = fast_conv2d(halves, *conv);
    }
    out.backward(incoming);
    EXPECT_EQ(out.scalar_type(), at::kBFloat16);
    EXPECT_TRUE(out.is_contiguous(kChannelsLast));
    EXPECT_TRUE(out.equal(expected.to(at::kBFloat16)));
    EXPECT_TRUE(halves.grad().equal(floats.grad().to(at::kBFloat16)));
    EXPECT_EQ(conv->weight.grad().scalar_type(), at::kFloat);
  }
}

TEST(FastConv, OfContiguousImagesIsLibTorchsUnderAutocast) {
  at::manual_seed(5);
  FastConv2d conv(Options(32, 64, 3).padding(1));
  const at::Tensor images = at::randn({3, 32, 9, 9});
  const Autocast autocast(at::kCPU, "bf16");
  EXPECT_TRUE(fast_conv2d(images, *conv).equal(conv->torch::nn::Conv2dImpl::forward(images)));
}

TEST(FastConv, OfFewChannelsHasTheSameBitsWithAnyNumberOfThreads) {
  at::manual_seed(2);
  FastConv2d conv(torch::nn::Conv2dOptions(3, 32, 5).padding(2));
  const at::Tensor images = at::randn({50, 3, 12, 12}).contiguous(kChannelsLast);
  const at::Tensor incoming = at::randn({50, 32, 12, 12});
  const int before = at::get_num_threads();
  std::vector<ConvResults> all;
  for (const int threads : {1, 2, 3}) {
    at::set_num_threads(threads);
    all.push_back(conv_results(images, incoming, conv, true));
  }
  at::set_num_threads(before);
  if (!float32_conv_kernels()) GTEST_SKIP() << "this processor has no AVX-512: LibTorch's loops";
  for (const ConvResults& one : all) {
    EXPECT_TRUE(one.out.equal(all[0].out));
    EXPECT_TRUE(one.of_weight.equal(all[0].of_weight));
    EXPECT_TRUE(one.of_bias.equal(all[0].of_bias));
  }
}

TEST(FastConv, IsClonedAsWhatItIs) {
  FastConv2d conv(torch::nn::Conv2dOptions(3, 32, 5));
  const auto copy = std::dynamic_pointer_cast<FastConv2dImpl>(conv->clone());
  ASSERT_TRUE(copy);
  EXPECT_TRUE(copy->weight.equal(conv->weight));
  EXPECT_FALSE(copy->weight.is_alias_of(conv->weight));
  EXPECT_TRUE(copy->bias.requires_grad());
}

TEST(FastConv, TakesImagesThatNeedAGradientAndAutocast) {
  at::manual_seed(3);
  FastConv2d conv(torch::nn::Conv2dOptions(3, 32, 5).padding(2));
  const at::Tensor images = at::randn({2, 3, 12, 12}).contiguous(kChannelsLast).requires_grad_(true);
  conv->forward(images).sum().backward();
  EXPECT_TRUE(images.grad().defined());
  const Autocast autocast(at::kCPU, "bf16");
  const at::Tensor out = conv->forward(images.detach());
  EXPECT_EQ(out.scalar_type(), at::kBFloat16);
}

}  // namespace
}  // namespace lockstep::kernels
