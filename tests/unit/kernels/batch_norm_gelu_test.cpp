#include "lockstep/batch_norm_gelu.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <limits>

#include "differences.h"
#include "kernels/norm_gelu_kernels.h"

namespace lockstep::kernels {
namespace {

using test::difference;
using test::kChannelsLast;

torch::nn::BatchNorm2d make_norm(int64_t channels, bool trained_weight = true) {
  torch::nn::BatchNorm2d norm(torch::nn::BatchNorm2dOptions(channels).eps(1e-5).momentum(0.4));
  const at::NoGradGuard no_grad;
  norm->weight.copy_(at::randn({channels}) * 0.3 + 1);
  norm->bias.copy_(at::randn({channels}));
  norm->weight.requires_grad_(trained_weight);
  return norm;
}

struct Results {
  at::Tensor out, of_images, of_weight, of_bias, mean, variance;
};

// In double with LibTorch, whatever the images are, or by the operator.
Results results(const at::Tensor& images, const at::Tensor& incoming, const torch::nn::BatchNorm2d& like, bool own) {
  const auto type = own ? images.scalar_type() : at::kDouble;
  torch::nn::BatchNorm2d norm = std::dynamic_pointer_cast<torch::nn::BatchNorm2dImpl>(like->clone());
  if (!own) norm->to(at::kDouble);
  const at::Tensor input = images.to(type).clone().requires_grad_(true);
  const at::Tensor out = own ? batch_norm_gelu(input, norm) : at::gelu(norm->forward(input));
  EXPECT_EQ(norm->num_batches_tracked.item<int64_t>(), 1);
  out.backward(incoming.to(type));
  return {out.detach(), input.grad(), norm->weight.grad(), norm->bias.grad(), norm->running_mean, norm->running_var};
}

struct NormCase {
  std::vector<int64_t> sizes;
  at::ScalarType type;
  double rounding;
};
class BatchNormGeluOf : public testing::TestWithParam<NormCase> {};

TEST_P(BatchNormGeluOf, AgreesWithDoublePrecisionForwardAndBackward) {
  at::manual_seed(1);
  const auto& [sizes, type, rounding] = GetParam();
  const at::Tensor images = (at::randn(sizes) * 2 + 0.7).to(type).contiguous(kChannelsLast);
  const at::Tensor incoming = at::randn(sizes).to(type).contiguous(kChannelsLast);
  const auto norm = make_norm(sizes[1]);
  const Results exact = results(images, incoming, norm, false);
  const Results ours = results(images, incoming, norm, true);
  EXPECT_EQ(ours.out.scalar_type(), type);
  EXPECT_EQ(ours.out.strides(), images.strides());
  EXPECT_LT(difference(ours.out, exact.out), rounding);
  EXPECT_LT(difference(ours.of_images, exact.of_images), rounding);
  EXPECT_LT(difference(ours.of_weight, exact.of_weight), rounding / 2);
  EXPECT_LT(difference(ours.of_bias, exact.of_bias), rounding / 2);
  EXPECT_LT(difference(ours.mean, exact.mean), 5e-6);
  EXPECT_LT(difference(ours.variance, exact.variance), 5e-6);
}

INSTANTIATE_TEST_SUITE_P(Shapes, BatchNormGeluOf,
                         testing::Values(NormCase{{4, 64, 15, 15}, at::kFloat, 1e-5},
                                         NormCase{{4, 64, 15, 15}, at::kBFloat16, 8e-3},  // 2^-7: two roundings
                                         NormCase{{9, 24, 7, 5}, at::kFloat, 1e-5},       // no whole block of channels
                                         NormCase{{3, 5, 31, 31}, at::kBFloat16, 8e-3},
                                         NormCase{{2, 300, 3, 3}, at::kFloat, 1e-5}));

TEST(BatchNormGelu, EvaluatesWithTheRunningStatistics) {
  at::manual_seed(2);
  auto norm = make_norm(40);
  norm->forward(at::randn({8, 40, 6, 6}) + 1);
  norm->eval();
  const at::NoGradGuard no_grad;
  const at::Tensor images = at::randn({8, 40, 6, 6}).contiguous(kChannelsLast);
  EXPECT_LT(difference(batch_norm_gelu(images, norm), at::gelu(norm->forward(images))), 2e-6);
  EXPECT_EQ(norm->num_batches_tracked.item<int64_t>(), 1);
}

TEST(BatchNormGelu, HasTheSameBitsWithAnyNumberOfThreads) {
  at::manual_seed(3);
  const at::Tensor images = at::randn({40, 32, 16, 16}).contiguous(kChannelsLast);
  const at::Tensor incoming = at::randn({40, 32, 16, 16}).contiguous(kChannelsLast);
  const auto norm = make_norm(32);
  const int before = at::get_num_threads();
  std::vector<Results> all;
  for (const int threads : {1, 2, 3}) {
    at::set_num_threads(threads);
    all.push_back(results(images, incoming, norm, true));
  }
  at::set_num_threads(before);
  for (const Results& one : all) {
    EXPECT_TRUE(one.out.equal(all[0].out));
    EXPECT_TRUE(one.of_images.equal(all[0].of_images));
    EXPECT_TRUE(one.of_weight.equal(all[0].of_weight));
  }
}

TEST(BatchNormGelu, LeavesTheRestToLibTorchAndAFrozenWeightAlone) {
  at::manual_seed(4);
  auto norm = make_norm(8, /*trained_weight=*/false);
  const at::Tensor contiguous = at::randn({4, 8, 6, 6});
  const at::Tensor by_libtorch = batch_norm_gelu(contiguous, norm);
  const at::Tensor images = contiguous.contiguous(kChannelsLast).requires_grad_(true);
  const at::Tensor out = batch_norm_gelu(images, norm);
  EXPECT_LT(difference(out, by_libtorch), 2e-6);
  out.sum().backward();
  EXPECT_FALSE(norm->weight.grad().defined());
  EXPECT_TRUE(norm->bias.grad().defined());
  torch::nn::BatchNorm2d bare(torch::nn::BatchNorm2dOptions(8).affine(false));
  EXPECT_EQ(batch_norm_gelu(images, bare).sizes(), images.sizes());
}

TEST(BatchNormGelu, PassesANaNOn) {
  auto norm = make_norm(32);
  at::Tensor images = at::randn({2, 32, 4, 4}).to(at::kBFloat16).contiguous(kChannelsLast);
  images[1][3][2][2] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor out = batch_norm_gelu(images, norm);
  EXPECT_TRUE(out.select(1, 3).isnan().all().item<bool>());
  EXPECT_FALSE(out.select(1, 4).isnan().any().item<bool>());
}

TEST(BatchNormGelu, SaysThatItHasNoSecondDerivative) {
  auto norm = make_norm(4);
  const at::Tensor images = at::randn({2, 4, 2, 2}).contiguous(kChannelsLast).requires_grad_(true);
  EXPECT_THROW(torch::autograd::grad({batch_norm_gelu(images, norm).sum()}, {images}, {}, true, true), c10::Error);
  const at::Tensor values = at::randn({5}).requires_grad_(true);
  EXPECT_THROW(torch::autograd::grad({fast_gelu(values).sum()}, {values}, {}, true, true), c10::Error);
}

TEST(Gelu, AndItsDerivativeAreExactToFloat32sRounding) {
  const at::Tensor values = at::linspace(-12, 12, 20001).requires_grad_(true);
  const at::Tensor out = fast_gelu(values);
  out.sum().backward();
  const at::Tensor exact_values = values.detach().to(at::kDouble).requires_grad_(true);
  const at::Tensor exact = at::gelu(exact_values);
  exact.sum().backward();
  EXPECT_LT((out - exact).abs().max().item<double>(), 5e-6);
  EXPECT_LT((values.grad() - exact_values.grad()).abs().max().item<double>(), 1e-5);
}

TEST(Gelu, TakesAnyDenseLayoutAndNonFiniteValues) {
  at::manual_seed(5);
  const at::Tensor images = at::randn({3, 7, 5, 5}).to(at::kBFloat16).contiguous(kChannelsLast);
  EXPECT_TRUE(at::allclose(fast_gelu(images), at::gelu(images), 8e-3, 1e-3));
  EXPECT_EQ(fast_gelu(images).strides(), images.strides());
  const float infinity = std::numeric_limits<float>::infinity();
  const at::Tensor odd = at::tensor({infinity, std::numeric_limits<float>::quiet_NaN(), 1e30F, -1e3F});
  const at::Tensor out = fast_gelu(odd);
  EXPECT_EQ(out[0].item<float>(), infinity);
  EXPECT_TRUE(std::isnan(out[1].item<float>()));
  EXPECT_FLOAT_EQ(out[2].item<float>(), 1e30F);
  EXPECT_NEAR(out[3].item<float>(), 0, 1e-3);
}

TEST(NormGeluKernels, AgreeOnEveryKindOfProcessor) {
  at::manual_seed(6);
  const at::Tensor values = at::randn({1003});
  std::vector<at::Tensor> all;
  for (auto processor = Processor::any; processor <= best_processor();
       processor = static_cast<Processor>(static_cast<int>(processor) + 1)) {
    at::Tensor out = at::empty({1003});
    norm_gelu_kernels<uint32_t>(processor).gelu(static_cast<const uint32_t*>(values.const_data_ptr()),
                                                static_cast<uint32_t*>(out.mutable_data_ptr()), 1003);
    all.push_back(out);
  }
  for (const at::Tensor& one : all) EXPECT_LT(difference(one, all[0]), 1e-6);  // products and sums in one, or not
}

}  // namespace
}  // namespace lockstep::kernels
