#include "lockstep/max_pool.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <limits>

#include "differences.h"
#include "kernels/max_pool_kernels.h"

namespace lockstep::kernels {
namespace {

using test::kChannelsLast;

struct PoolCase {
  std::vector<int64_t> sizes;
  at::ScalarType type;
};

// The sign of a zero counts; what a NaN carries does not.
void expect_same_bits(const at::Tensor& expected, const at::Tensor& found) {
  const auto bits = [](const at::Tensor& values) {
    const at::Tensor told = at::where(values.isnan(), at::full_like(values, 12345), values).contiguous();
    const auto width = told.element_size() == 8 ? at::kLong : told.element_size() == 4 ? at::kInt : at::kShort;
    return told.view(width);
  };
  EXPECT_TRUE(expected.isnan().equal(found.isnan()));
  EXPECT_TRUE(bits(expected).equal(bits(found)));
}

// Out and gradient of both; the gradient that comes in is random, with some zeros of either sign.
void expect_libtorch_bits(const at::Tensor& values) {
  std::vector<at::Tensor> outs, gradients;
  at::Tensor incoming;
  for (const bool own : {false, true}) {
    const at::Tensor images = values.detach().clone().requires_grad_(true);
    const at::Tensor out = own ? max_pool2x2(images) : at::max_pool2d(images, 2);
    if (!incoming.defined()) {
      incoming = at::randn_like(out);
      incoming.masked_fill_(at::rand(out.sizes()) > 0.8, 0.0).masked_fill_(at::rand(out.sizes()) > 0.8, -0.0);
    }
    out.backward(incoming);
    outs.push_back(out.detach());
    gradients.push_back(images.grad());
  }
  EXPECT_EQ(outs[1].suggest_memory_format(), outs[0].suggest_memory_format());
  EXPECT_EQ(outs[1].scalar_type(), values.scalar_type());
  expect_same_bits(outs[1], outs[0]);
  expect_same_bits(gradients[1], gradients[0]);
}

void expect_libtorch_bits_in_both_layouts(const at::Tensor& values) {
  for (const auto format : {at::MemoryFormat::Contiguous, kChannelsLast}) {
    SCOPED_TRACE(testing::Message() << format);
    expect_libtorch_bits(values.contiguous(format));
  }
}

class MaxPool2x2Of : public testing::TestWithParam<PoolCase> {};

TEST_P(MaxPool2x2Of, GivesTheBitsOfLibTorchForwardAndBackward) {
  at::manual_seed(1);
  const auto& [sizes, type] = GetParam();
  expect_libtorch_bits_in_both_layouts(at::randn(sizes).to(type));
}

TEST_P(MaxPool2x2Of, GivesTheFirstOfEqualValuesTheGradient) {
  at::manual_seed(2);
  const auto& [sizes, type] = GetParam();
  at::Tensor values = at::randint(-1, 2, sizes).to(type);
  values = values * -1;  // has zeros of both signs
  expect_libtorch_bits_in_both_layouts(values);
}

TEST_P(MaxPool2x2Of, LetsNaNAndInfinityWinAsLibTorchDoes) {
  at::manual_seed(3);
  const auto& [sizes, type] = GetParam();
  at::Tensor values = at::randn(sizes);
  values.masked_fill_(at::randn(sizes) > 1.2, std::numeric_limits<double>::quiet_NaN());
  values.masked_fill_(at::randn(sizes) > 1.2, std::numeric_limits<double>::infinity());
  values.masked_fill_(at::randn(sizes) > 1.2, -std::numeric_limits<double>::infinity());
  expect_libtorch_bits_in_both_layouts(values.to(type));
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, MaxPool2x2Of,
    testing::Values(
        PoolCase{{3, 32, 8, 8}, at::kFloat}, PoolCase{{3, 32, 8, 8}, at::kBFloat16},  //
        PoolCase{{2, 64, 7, 5}, at::kFloat}, PoolCase{{2, 64, 7, 5}, at::kBFloat16},  // odd: a row and a column over
        PoolCase{{5, 3, 2, 2}, at::kFloat}, PoolCase{{5, 37, 6, 4}, at::kBFloat16},   // no whole block of channels
        PoolCase{{1, 256, 15, 15}, at::kFloat}, PoolCase{{3, 1, 8, 6}, at::kFloat},   // both layouts at once
        PoolCase{{2, 2, 3, 19}, at::kFloat}, PoolCase{{2, 2, 3, 19}, at::kBFloat16},  // no whole vector of windows
        PoolCase{{70, 40, 16, 16}, at::kFloat}, PoolCase{{70, 40, 16, 16}, at::kBFloat16}));

TEST(MaxPool2x2, LeavesOtherLayoutsAndTypesToLibTorch) {
  at::manual_seed(4);
  expect_libtorch_bits_in_both_layouts(at::randn({2, 5, 6, 6}).to(at::kDouble));
  expect_libtorch_bits(at::randn({2, 5, 6, 6}).permute({2, 1, 0, 3}));
  expect_libtorch_bits(at::randn({2, 8, 12, 6}).contiguous(kChannelsLast).slice(2, 0, 12, 2));  // not dense
  EXPECT_EQ(max_pool2x2(at::randn({5, 6, 6})).sizes(), (std::vector<int64_t>{5, 3, 3}));
}

TEST(MaxPool2x2, TakesAGradientInAnotherLayout) {
  at::manual_seed(5);
  for (const bool channels_last : {false, true}) {
    const auto [format, other] = channels_last ? std::pair(kChannelsLast, at::MemoryFormat::Contiguous)
                                               : std::pair(at::MemoryFormat::Contiguous, kChannelsLast);
    const at::Tensor images = at::randn({2, 32, 4, 4}).contiguous(format).requires_grad_(true);
    const at::Tensor incoming = at::randn({2, 32, 2, 2}).contiguous(other);
    max_pool2x2(images).backward(incoming);
    const at::Tensor own = images.grad().clone();
    images.mutable_grad() = at::Tensor();
    at::max_pool2d(images, 2).backward(incoming);
    expect_same_bits(images.grad(), own);
  }
}

TEST(MaxPool2x2, SaysThatItHasNoSecondDerivative) {
  const at::Tensor images = at::randn({1, 4, 2, 2}).contiguous(kChannelsLast).requires_grad_(true);
  EXPECT_THROW(torch::autograd::grad({max_pool2x2(images).sum()}, {images}, {}, true, /*create_graph=*/true),
               c10::Error);
}

TEST(PoolKernels, GiveTheSameBitsOnEveryKindOfProcessor) {
  at::manual_seed(6);
  for (const auto& [pixels, channels] : {std::pair<int64_t, int64_t>(3, 70), {39, 1}}) {
    const at::Tensor rows = at::randn({2, 2 * pixels, channels}).to(at::kBFloat16);
    const auto* upper = static_cast<const uint16_t*>(rows.const_data_ptr());
    const uint16_t* lower = upper + 2 * pixels * channels;
    std::vector<std::vector<uint16_t>> all;
    for (auto processor = Processor::any; processor <= best_processor();
         processor = static_cast<Processor>(static_cast<int>(processor) + 1)) {
      const auto kernels = pool_kernels<uint16_t>(processor);
      std::vector<uint16_t> out(pixels * channels), back(4 * pixels * channels);
      std::vector<uint8_t> winner(pixels * channels);
      kernels.forward(upper, lower, out.data(), winner.data(), pixels, channels);
      kernels.backward(out.data(), winner.data(), back.data(), back.data() + 2 * pixels * channels, pixels, channels);
      out.insert(out.end(), back.begin(), back.end());
      out.insert(out.end(), winner.begin(), winner.end());
      all.push_back(out);
    }
    for (const auto& one : all) EXPECT_EQ(one, all.front());
  }
}

}  // namespace
}  // namespace lockstep::kernels
