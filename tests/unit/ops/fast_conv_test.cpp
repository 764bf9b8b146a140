#include "lockstep/fast_conv.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <optional>

#include "differences.h"
#include "lockstep/max_pool.h"
#include "ops/conv/image_conv.h"
#include "ops/conv/image_conv_kernels.h"
#include "ops/conv/pooled_gradient.h"
#include "ops/conv/winograd_conv.h"
#include "ops/processor.h"
#include "train/device_path.h"

namespace lockstep {
namespace {

using test::difference;
using test::kChannelsLast;

struct ConvResults {
  at::Tensor out, of_images, of_weight, of_bias;
};

ConvResults conv_results(const at::Tensor& values, const at::Tensor& incoming, const FastConv2d& like, bool own,
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

void PrintTo(const ConvCase& of, std::ostream* to) {
  *to << of.options.in_channels() << " to " << of.options.out_channels() << ", kernel " << of.options.kernel_size();
}

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
    EXPECT_EQ(own.of_weight.strides(), conv->weight.strides());
    if (of_images) {
      EXPECT_LT(difference(own.of_images, exact.of_images), rounding);
    }
    if (options.bias()) {
      EXPECT_LT(difference(own.of_bias, exact.of_bias), 1e-5);
    }
  }
}

using Options = torch::nn::Conv2dOptions;
const auto kFewChannels =
    testing::Values(ConvCase{Options(3, 32, 5).padding(2)}, ConvCase{Options(3, 64, 3).padding(1).bias(false)},
                    ConvCase{Options(1, 96, {7, 2}).padding({0, 3})}, ConvCase{Options(4, 32, 1)});
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

constexpr double kLastBitOfBFloat16 = 8e-3;  // 2^-7
constexpr double kWinogradInBFloat16 = 3e-2;

bool by_winograd_in_bfloat16(const at::Tensor& images, const torch::nn::Conv2dImpl& conv) {
  const Autocast autocast(at::kCPU, "bf16");
  return winograd_takes(images, conv);
}

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
      EXPECT_EQ(together.out.strides(), apart.out.strides());
      if (of_images) {
        EXPECT_TRUE(together.of_images.equal(apart.of_images));
      }
      const double rounding = !autocast                                ? 1e-5
                              : by_winograd_in_bfloat16(images, *conv) ? kWinogradInBFloat16
                                                                       : kLastBitOfBFloat16;
      EXPECT_EQ(together.of_weight.scalar_type(), at::kFloat);
      EXPECT_EQ(together.of_weight.strides(), apart.of_weight.strides());
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

// The root of the mean square of a difference, relative to that of `right`.
double mean_difference(const at::Tensor& one, const at::Tensor& right) {
  const at::Tensor exact = right.to(at::kDouble);
  return ((one.to(at::kDouble) - exact).norm() / exact.norm()).item<double>();
}

class FastConvByWinogradInBFloat16 : public testing::TestWithParam<ConvCase> {};

// Against double precision of the same rounded images; weights are not rounded before they are transformed.
TEST_P(FastConvByWinogradInBFloat16, IsOffByWhatItsTransformsAreRoundedTo) {
  at::manual_seed(8);
  const torch::nn::Conv2dOptions options = GetParam().options;
  FastConv2d conv(options);
  const bool large = conv->weight.numel() > 100000;  // not worth its transforms for some tiles
  constexpr double kMean = 2e-2;
  bool turn = false;
  for (const auto& [count, height, width] :
       {std::array<int64_t, 3>{33, 13, 17}, {200, 7, 7}, {40, 5, 8}, {7, 5, 12}, {1, 5, 5}}) {
    SCOPED_TRACE(testing::Message() << count << " images of " << height << 'x' << width);
    if (large && count < 32) continue;
    turn = !turn;
    conv->weight.set_data(conv->weight.contiguous(turn ? kChannelsLast : at::MemoryFormat::Contiguous));
    const at::Tensor images =
        at::randn({count, options.in_channels(), height, width}).to(at::kBFloat16).contiguous(kChannelsLast);
    if (!has_fast_bfloat16_vectors()) GTEST_SKIP() << "this processor has no fast products of bfloat16";
    ASSERT_TRUE(by_winograd_in_bfloat16(images, *conv));
    at::Tensor incoming;
    const PooledResults own =
        pooled_results(conv, images, true, true, incoming,
                       [](const at::Tensor& values, FastConv2dImpl& one) { return one.forward(values); });
    const ConvResults exact = conv_results(images, incoming, conv, false, true);
    EXPECT_EQ(own.out.scalar_type(), at::kBFloat16);
    EXPECT_TRUE(own.out.is_contiguous(kChannelsLast));
    EXPECT_LT(mean_difference(own.out, exact.out), kMean);
    EXPECT_LT(difference(own.out, exact.out), kWinogradInBFloat16);
    EXPECT_EQ(own.of_images.scalar_type(), at::kBFloat16);
    EXPECT_LT(mean_difference(own.of_images, exact.of_images), kMean);
    EXPECT_LT(difference(own.of_images, exact.of_images), kWinogradInBFloat16);
    EXPECT_EQ(own.of_weight.scalar_type(), at::kFloat);
    EXPECT_EQ(own.of_weight.strides(), conv->weight.strides());
    EXPECT_LT(mean_difference(own.of_weight, exact.of_weight), kMean);
    EXPECT_LT(difference(own.of_weight, exact.of_weight), kWinogradInBFloat16);
    if (options.bias()) {
      EXPECT_LT(difference(own.of_bias, exact.of_bias), 1e-5);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(OfAllShapes, FastConvByWinogradInBFloat16,
                         testing::Values(ConvCase{Options(32, 32, 5).padding(2)}, ConvCase{Options(32, 64, 5)},
                                         ConvCase{Options(32, 32, 3).padding(1).bias(false)},
                                         ConvCase{Options(96, 32, 3).padding(2)},
                                         ConvCase{Options(24, 64, 3).padding(1).bias(false)},
                                         ConvCase{Options(17, 32, 3)}, ConvCase{Options(256, 192, 3).padding(1)}));

// LibTorch fills memory with NaN then that is not set.
TEST(FastConv, ByWinogradReadsOnlyWhatIsSet) {
  if (best_processor() != Processor::avx512) GTEST_SKIP() << "this processor has no AVX-512: LibTorch's loops";
  at::manual_seed(9);
  for (const Options& options : {Options(24, 64, 3).padding(1), Options(17, 32, 5).padding(4), Options(64, 32, 3)}) {
    const FastConv2d conv(options);
    for (const bool autocast : {false, true}) {
      const at::Tensor images = at::randn({3, options.in_channels(), 7, 9}).contiguous(kChannelsLast);
      ASSERT_TRUE(winograd_takes(images, *conv));
      at::Tensor incoming;
      std::vector<PooledResults> all;
      for (const bool filled : {false, true}) {
        at::globalContext().setDeterministicAlgorithms(filled, /*warn_only=*/true);
        all.push_back(
            pooled_results(conv, images, true, autocast, incoming,
                           [](const at::Tensor& values, FastConv2dImpl& one) { return one.forward(values); }));
      }
      at::globalContext().setDeterministicAlgorithms(false, /*warn_only=*/false);
      EXPECT_TRUE(all[1].out.equal(all[0].out));
      EXPECT_TRUE(all[1].of_images.equal(all[0].of_images));
      EXPECT_TRUE(all[1].of_weight.equal(all[0].of_weight));
      EXPECT_TRUE(all[1].of_bias.equal(all[0].of_bias));
    }
  }
}

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

TEST(FastConv, TakesByWinogradWhatItIsMadeFor) {
  if (best_processor() != Processor::avx512) GTEST_SKIP() << "this processor has no AVX-512: LibTorch's loops";
  const at::Tensor images = at::randn({2, 32, 8, 8});  // 32 tiles of 2x2
  const FastConv2d five(Options(32, 64, 5).padding(2)), wide(Options(32, 256, 5).padding(2)),
      too_wide(Options(32, 4096, 5).padding(2));
  EXPECT_TRUE(winograd_takes(images.contiguous(kChannelsLast), *five));
  EXPECT_FALSE(winograd_takes(images, *five));
  EXPECT_TRUE(winograd_takes(at::randn({2, 16, 8, 8}).contiguous(kChannelsLast), *FastConv2d(Options(16, 32, 5))));
  EXPECT_FALSE(winograd_takes(at::randn({2, 15, 8, 8}).contiguous(kChannelsLast), *FastConv2d(Options(15, 32, 5))));
  EXPECT_FALSE(winograd_takes(images.contiguous(kChannelsLast).to(at::kDouble), *five));
  EXPECT_TRUE(winograd_takes(images.contiguous(kChannelsLast), *wide));
  EXPECT_FALSE(winograd_takes(images[0].unsqueeze(0).contiguous(kChannelsLast), *wide));
  EXPECT_FALSE(winograd_takes(images.contiguous(kChannelsLast), *too_wide));
  EXPECT_THROW(FastConv2d(Options(32, 32, 3).padding(-1))->forward(images.contiguous(kChannelsLast)), c10::Error);
  EXPECT_EQ(by_winograd_in_bfloat16(images.contiguous(kChannelsLast), *five), has_fast_bfloat16_vectors());
}

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
}  // namespace lockstep
