#include "lockstep/model.h"

#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "lockstep/error.h"
#include "lockstep/net.h"

namespace lockstep {
namespace {

TEST(SjNet, HasTheTutorialsParameters) {
  const auto net = make_net("sjnet");
  const std::vector<std::pair<std::string, std::vector<int64_t>>> expected = {
      {"model.0.weight", {32, 3, 5, 5}},  {"model.0.bias", {32}},
      {"model.2.weight", {32, 32, 5, 5}}, {"model.2.bias", {32}},
      {"model.4.weight", {64, 32, 5, 5}}, {"model.4.bias", {64}},
      {"model.7.weight", {64, 1024}},     {"model.7.bias", {64}},
      {"model.8.weight", {10, 64}},       {"model.8.bias", {10}}};
  std::vector<std::pair<std::string, std::vector<int64_t>>> found;
  int64_t count = 0;
  for (const auto& parameter : net->named_parameters()) {
    found.emplace_back(parameter.key(), parameter.value().sizes().vec());
    count += parameter.value().numel();
  }
  EXPECT_EQ(found, expected);
  EXPECT_EQ(count, 145'578);
}

TEST(SjNet, GivesTenLogitsForEachImage) {
  EXPECT_EQ(make_net("sjnet")->forward(at::zeros({3, 3, 32, 32})).sizes(), (std::vector<int64_t>{3, 10}));
}

TEST(Nets, AnUnknownNameIsRefused) { EXPECT_THROW(make_net("sjent"), Error); }

}  // namespace
}  // namespace lockstep
