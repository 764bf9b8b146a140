#include "optim/muon.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

namespace lockstep {
namespace {

at::Tensor random(at::IntArrayRef sizes) { return at::randn(sizes); }

at::Tensor leaf(const at::Tensor& value, const at::Tensor& gradient) {
  at::Tensor parameter = value.clone().requires_grad_();
  parameter.mutable_grad() = gradient.clone();
  return parameter;
}

TEST(Muon, OrthogonalisedMatricesHaveSingularValuesNearOneAndTheirOwnDirections) {
  at::manual_seed(1);
  for (const auto& sizes :
       {std::vector<int64_t>{16, 48}, std::vector<int64_t>{48, 16}, std::vector<int64_t>{64, 216}}) {
    const at::Tensor matrix = random(sizes);
    const at::Tensor result = orthogonalised(matrix);
    ASSERT_EQ(result.sizes(), matrix.sizes());
    const at::Tensor values = std::get<1>(at::linalg_svd(result));
    EXPECT_GT(values.min().item<float>(), 0.6);
    EXPECT_LT(values.max().item<float>(), 1.3);
    // U diag(f(s)) Vᵀ: multiplied by the matrix's own transpose it is symmetric.
    const at::Tensor product = at::matmul(result, matrix.t());
    EXPECT_LT((product - product.t()).abs().max().item<float>(), 1e-3);
  }
}

TEST(Muon, OrthogonalisedInBfloat16IsAPercentOffAtMost) {
  at::manual_seed(8);
  for (const auto& sizes : {std::vector<int64_t>{64, 216}, std::vector<int64_t>{216, 64}}) {
    const at::Tensor matrix = random(sizes);
    const at::Tensor exact = orthogonalised(matrix);
    const at::Tensor rounded = orthogonalised(matrix, at::kBFloat16);
    EXPECT_EQ(rounded.scalar_type(), at::kFloat);
    EXPECT_LT(((rounded - exact).norm() / exact.norm()).item<float>(), 0.01);
  }
}

TEST(Muon, TheScaleOfGradientsDoesNotMatter) {
  at::manual_seed(2);
  const at::Tensor matrix = random({8, 20});
  for (const double scale : {1e-12, 1e-6, 2000.0}) {
    EXPECT_TRUE(at::allclose(orthogonalised(matrix * scale), orthogonalised(matrix), 1e-4, 1e-5)) << scale;
  }
  EXPECT_EQ(orthogonalised(at::zeros({3, 4})).abs().max().item<float>(), 0);
}

TEST(Muon, AStepScalesTheFilterAndTakesTheRateTimesTheOrthogonalisedMomentum) {
  at::manual_seed(3);
  const at::Tensor start = random({6, 2, 3, 3});
  const at::Tensor gradients[] = {random({6, 2, 3, 3}), random({6, 2, 3, 3})};
  for (const bool nesterov : {false, true}) {
    at::Tensor filter = leaf(start, gradients[0]);
    Muon muon({filter}, {.momentum = 0.5, .nesterov = nesterov});
    at::Tensor expected = start;
    at::Tensor momentum = at::zeros_like(start);
    for (const at::Tensor& gradient : gradients) {
      filter.mutable_grad() = gradient.clone();
      muon.step(0.1);
      momentum = 0.5 * momentum + gradient;
      const at::Tensor direction = nesterov ? gradient + 0.5 * momentum : momentum;
      expected = expected * (std::sqrt(6.0) / expected.norm()) -
                 0.1 * orthogonalised(direction.reshape({6, 18})).reshape(start.sizes());
      EXPECT_TRUE(at::allclose(filter.detach(), expected, 1e-5, 1e-6));
    }
    EXPECT_TRUE(at::allclose(muon.buffer_of(filter), momentum));
  }
}

TEST(Muon, FiltersMayBeChannelsLast) {
  at::manual_seed(4);
  const at::Tensor start = random({6, 4, 3, 3});
  const at::Tensor gradient = random({6, 4, 3, 3});
  at::Tensor plain = leaf(start, gradient);
  const auto format = at::MemoryFormat::ChannelsLast;
  at::Tensor other = start.contiguous(format).requires_grad_();
  other.mutable_grad() = gradient.contiguous(format);
  Muon muon({plain, other}, {.momentum = 0.6, .nesterov = true});
  muon.step(0.2);
  EXPECT_TRUE(other.is_contiguous(format));
  EXPECT_TRUE(at::allclose(plain.detach(), other.detach(), 1e-5, 1e-6));
  EXPECT_FALSE(at::allclose(plain.detach(), start));
}

TEST(Muon, AFilterWithoutAGradientStaysAsItIs) {
  const at::Tensor filter = at::ones({2, 1, 1, 1}).requires_grad_();
  Muon muon({filter}, {.momentum = 0.6});
  muon.step(0.2);
  EXPECT_TRUE(at::equal(filter.detach(), at::ones({2, 1, 1, 1})));
  EXPECT_FALSE(muon.buffer_of(filter).defined());
}

}  // namespace
}  // namespace lockstep
