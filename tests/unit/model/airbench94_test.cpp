#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "lockstep/model.h"
#include "lockstep/net.h"

namespace lockstep {
namespace {

TEST(Airbench94, HasItsParametersAndFreezesWhiteningAndScales) {
  const auto net = make_net("airbench94");
  int64_t trained = 0;
  int64_t frozen = 0;
  for (const auto& parameter : net->named_parameters()) {
    const bool expected_frozen = parameter.key() == "whiten.weight" || parameter.key().ends_with("norm1.weight") ||
                                 parameter.key().ends_with("norm2.weight");
    EXPECT_EQ(parameter.value().requires_grad(), !expected_frozen) << parameter.key();
    (expected_frozen ? frozen : trained) += parameter.value().numel();
  }
  EXPECT_EQ(trained, 24 + 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256) + 2 * (64 + 256 + 256) + 2560);
  EXPECT_EQ(frozen, 24 * 12 + 2 * (64 + 256 + 256));
  EXPECT_EQ(net->forward(at::rand({3, 3, 32, 32})).sizes(), (std::vector<int64_t>{3, 10}));
}

TEST(Airbench94, BeginsWithFiltersThatPassTheirChannelOnAndAHeadOfDeviationOne) {
  const auto parameters = make_net("airbench94")->named_parameters();
  const at::Tensor filters = parameters["group2.conv1.weight"];  // [256, 64, 3, 3]
  at::Tensor identity = at::zeros({64, 64, 3, 3});
  for (int64_t i = 0; i < 64; ++i) identity[i][i][1][1] = 1;
  EXPECT_TRUE(at::equal(filters.slice(0, 0, 64), identity));
  EXPECT_GT(filters.slice(0, 64, 256).abs().min().item<float>(), 0);
  EXPECT_NEAR(parameters["head.weight"].std().item<float>(), 1, 1e-5);
}

TEST(Airbench94, WhitensThePatchesOfTheImagesItIsPreparedWith) {
  at::manual_seed(5);
  const auto net = make_net("airbench94");
  // Neighbouring pixels and channels go together, as in photographs.
  const at::Tensor images =
      at::avg_pool2d(at::randn({600, 3, 36, 36}), 5, 1) * 3 + 0.1 * at::randn({600, 3, 32, 32}) + 0.2;
  net->prepare(images);
  const at::Tensor weight = net->named_parameters()["whiten.weight"].detach();
  EXPECT_TRUE(at::equal(weight.slice(0, 12, 24), -weight.slice(0, 0, 12)));
  const at::Tensor answers = at::conv2d(images, weight.slice(0, 0, 12)).permute({1, 0, 2, 3}).reshape({12, -1});
  const at::Tensor moments = at::matmul(answers, answers.t()) / answers.size(1);
  // Uncorrelated, and each near 1: λ / (λ + 5e-4).
  EXPECT_LT((moments - at::diag(at::diagonal(moments))).abs().max().item<float>(), 1e-3);
  EXPECT_GT(at::diagonal(moments).min().item<float>(), 0.9);
  EXPECT_LT(at::diagonal(moments).max().item<float>(), 1.001);
}

TEST(Airbench94, KeepsTheSameShareOfStatisticsInAStepOfAnyNumberOfPasses) {
  at::manual_seed(6);
  const at::Tensor images = at::rand({8, 3, 32, 32});
  const c10::NoGradGuard no_grad;
  std::vector<at::Tensor> means;
  for (const int64_t passes : {1, 4}) {
    at::manual_seed(7);
    const auto net = make_net("airbench94");
    net->set_passes_per_step(passes);
    for (int64_t i = 0; i < passes; ++i) net->forward(images);  // the same batch statistics in each pass
    means.push_back(net->named_buffers()["group3.norm2.running_mean"].clone());
  }
  EXPECT_TRUE(at::allclose(means[0], means[1], 1e-4, 1e-6));
  EXPECT_GT(means[0].abs().max().item<float>(), 1e-3);
}

}  // namespace
}  // namespace lockstep
