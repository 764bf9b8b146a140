#include "lockstep/image_conv.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "ops/image_conv_kernels.h"

namespace lockstep {
namespace {

constexpr auto kChannelsLast = at::MemoryFormat::ChannelsLast;

class ImageConvOf : public testing::TestWithParam<torch::nn::Conv2dOptions> {};

double difference(const at::Tensor& one, const at::Tensor& other) {
  return ((one - other).abs().max() / other.abs().max()).item<double>();
}

struct Results {
  at::Tensor out, of_weight, of_bias;
};

Results results(const at::Tensor& images, const at::Tensor& incoming, const ImageConv2d& like, bool own) {
  const auto conv = std::dynamic_pointer_cast<ImageConv2dImpl>(like->clone());
  if (!own) conv->to(at::kDouble);
  const at::Tensor out = own ? conv->forward(images) : conv->torch::nn::Conv2dImpl::forward(images.to(at::kDouble));
  out.backward(own ? incoming : incoming.to(at::kDouble));
  return {out.detach(), conv->weight.grad(), conv->bias.defined() ? conv->bias.grad() : at::Tensor()};
}

TEST_P(ImageConvOf, AgreesWithDoublePrecisionForwardAndBackward) {
  at::manual_seed(1);
  const torch::nn::Conv2dOptions options = GetParam();
  ImageConv2d conv(options);
  conv->to(at::kCPU);
  for (const int64_t count : {1, 19}) {
    const at::Tensor images = at::randn({count, options.in_channels(), 13, 17}).contiguous(kChannelsLast);
    const at::Tensor incoming = at::randn_like(conv->torch::nn::Conv2dImpl::forward(images).detach());
    const Results exact = results(images, incoming, conv, false);
    const Results own = results(images, incoming, conv, true);
    EXPECT_LT(difference(own.out, exact.out), 1e-6);
    EXPECT_TRUE(own.out.is_contiguous(kChannelsLast));
    EXPECT_LT(difference(own.of_weight, exact.of_weight), 1e-5);
    if (options.bias()) {
      EXPECT_LT(difference(own.of_bias, exact.of_bias), 1e-5);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Convolutions, ImageConvOf,
                         testing::Values(torch::nn::Conv2dOptions(3, 32, 5).padding(2),
                                         torch::nn::Conv2dOptions(3, 64, 3).padding(1).bias(false),
                                         torch::nn::Conv2dOptions(1, 96, {7, 2}).padding({0, 3}),
                                         torch::nn::Conv2dOptions(4, 32, 1),
                                         // LibTorch's:
                                         torch::nn::Conv2dOptions(3, 24, 3), torch::nn::Conv2dOptions(8, 32, 3),
                                         torch::nn::Conv2dOptions(3, 32, 3).stride(2),
                                         torch::nn::Conv2dOptions(3, 32, 3).padding(torch::kSame)));

TEST(ImageConv, HasTheSameBitsWithAnyNumberOfThreads) {
  at::manual_seed(2);
  ImageConv2d conv(torch::nn::Conv2dOptions(3, 32, 5).padding(2));
  const at::Tensor images = at::randn({50, 3, 12, 12}).contiguous(kChannelsLast);
  const at::Tensor incoming = at::randn({50, 32, 12, 12});
  const int before = at::get_num_threads();
  std::vector<Results> all;
  for (const int threads : {1, 2, 3}) {
    at::set_num_threads(threads);
    all.push_back(results(images, incoming, conv, true));
  }
  at::set_num_threads(before);
  if (!image_conv_kernels(best_processor())) GTEST_SKIP() << "this processor has no AVX-512: LibTorch's loops";
  for (const Results& one : all) {
    EXPECT_TRUE(one.out.equal(all[0].out));
    EXPECT_TRUE(one.of_weight.equal(all[0].of_weight));
    EXPECT_TRUE(one.of_bias.equal(all[0].of_bias));
  }
}

TEST(ImageConv, IsClonedAsWhatItIs) {
  ImageConv2d conv(torch::nn::Conv2dOptions(3, 32, 5));
  const auto copy = std::dynamic_pointer_cast<ImageConv2dImpl>(conv->clone());
  ASSERT_TRUE(copy);
  EXPECT_TRUE(copy->weight.equal(conv->weight));
  EXPECT_FALSE(copy->weight.is_alias_of(conv->weight));
  EXPECT_TRUE(copy->bias.requires_grad());
}

TEST(ImageConv, LeavesImagesThatNeedAGradientAndAutocastToLibTorch) {
  at::manual_seed(3);
  ImageConv2d conv(torch::nn::Conv2dOptions(3, 32, 5).padding(2));
  const at::Tensor images = at::randn({2, 3, 12, 12}).contiguous(kChannelsLast).requires_grad_(true);
  conv->forward(images).sum().backward();
  EXPECT_TRUE(images.grad().defined());
  at::autocast::set_autocast_enabled(at::kCPU, true);
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  const at::Tensor out = conv->forward(images.detach());
  at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(at::kCPU, false);
  EXPECT_EQ(out.scalar_type(), at::kBFloat16);
}

}  // namespace
}  // namespace lockstep
