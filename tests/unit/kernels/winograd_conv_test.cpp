#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <vector>

#include "conv_cases.h"
#include "differences.h"
#include "kernels/conv/winograd_conv.h"
#include "kernels/processor.h"
#include "lockstep/fast_conv.h"

namespace lockstep::kernels {
namespace {

using namespace test;

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
    EXPECT_TRUE(same_layout(own.of_weight, conv->weight)) << own.of_weight.strides();
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

}  // namespace
}  // namespace lockstep::kernels
