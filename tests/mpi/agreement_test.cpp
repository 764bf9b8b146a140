#include "ddp/agreement.h"

#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/version.h>

#include "agreed.h"
#include "lockstep/version.h"

namespace lockstep {
namespace {

using test::agreed_error;
using test::alone;
using test::last;
using testing::HasSubstr;
using Lines = std::vector<std::string>;

const Lines kLines = {"epochs 2", "lr 0.1", "momentum 0.9"};

bool odd() { return world().rank() == last() && !alone(); }

std::string difference(const Lines& lines, int reporter = last()) {
  return agreed_error(ExitCode::launch, reporter, [&] { agree(world(), "the settings", lines); });
}

TEST(Agreement, EqualLinesPass) {
  agree(world(), "the settings", kLines);
  agree(world(), "nothing", {});
}

TEST(Agreement, TheFirstLineThatDiffersIsNamed) {
  if (alone()) return;
  Lines mine = kLines;
  if (odd()) mine = {"epochs 2", "lr 0.2", "momentum 0.8"};
  EXPECT_EQ(
      difference(mine),
      fmt::format("rank {0} (host {1}) differs from rank 0 in the settings: rank {0} has `lr 0.2`, rank 0 `lr 0.1`",
                  last(), world().host()));
}

TEST(Agreement, AllRanksThatDifferAreNamed) {
  if (world().size() < 3) return;
  Lines mine = kLines;
  if (world().rank() > 0) mine[1] = fmt::format("lr 0.{}", world().rank() + 1);
  EXPECT_EQ(difference(mine, 1),
            fmt::format("ranks {} (host {}) differ from rank 0 in the settings: rank 1 has `lr 0.2`, rank 0 `lr 0.1`",
                        world().size() == 3 ? "1, 2" : "1, 2, 3", world().host()));
}

TEST(Agreement, ALineTooFewOrTooManyIsSaidToBeSo) {
  if (alone()) return;
  Lines mine = kLines;
  if (odd()) mine.erase(mine.begin() + 1);
  EXPECT_THAT(difference(mine), HasSubstr(fmt::format("rank {} lacks `lr 0.1`", last())));
  mine = kLines;
  if (odd()) mine.pop_back();
  EXPECT_THAT(difference(mine), HasSubstr(fmt::format("rank {} lacks `momentum 0.9`", last())));
  mine = kLines;
  if (odd()) mine.insert(mine.begin(), "seed 1");
  EXPECT_THAT(difference(mine), HasSubstr(fmt::format("rank {} has `seed 1`, which rank 0 lacks", last())));
  mine = kLines;
  if (odd()) mine.push_back("seed 1");
  EXPECT_THAT(difference(mine), HasSubstr(fmt::format("rank {} has `seed 1`, which rank 0 lacks", last())));
}

TEST(Agreement, TheOrderOfLinesCounts) {
  if (alone()) return;
  Lines mine = kLines;
  if (odd()) std::swap(mine[0], mine[1]);
  EXPECT_THAT(difference(mine), HasSubstr(fmt::format("rank {} has `lr 0.1`, rank 0 `epochs 2`", last())));
}

TEST(Agreement, RanksThatAskAboutDifferentThingsDoNotAgree) {
  if (alone()) return;
  const std::string message =
      agreed_error(ExitCode::launch, last(), [&] { agree(world(), odd() ? "the model" : "the settings", kLines); });
  EXPECT_THAT(message, HasSubstr("`the model`, rank 0 `the settings`"));
}

TEST(DescribeModule, HasALineForTheVersionsAndEachParameterAndBuffer) {
  torch::nn::Sequential net(torch::nn::Linear(3, 4), torch::nn::BatchNorm1d(4));
  net->ptr(0)->named_parameters()["bias"].set_requires_grad(false);
  net->ptr(0)->named_parameters()["weight"].set_data(at::zeros({3, 4}).t());
  EXPECT_EQ(
      describe_module(*net),
      (Lines{fmt::format("lockstep {} with LibTorch {}", version(), TORCH_VERSION),
             "parameter 0.weight [4, 3] float32 strides [1, 4]", "parameter 0.bias [4] float32 frozen",
             "parameter 1.weight [4] float32", "parameter 1.bias [4] float32", "buffer 1.running_mean [4] float32",
             "buffer 1.running_var [4] float32", "buffer 1.num_batches_tracked [] int64"}));
}

TEST(DescribeModule, TellsModelsApart) {
  if (alone()) return;
  const torch::nn::Sequential net(torch::nn::Linear(4, odd() ? 11 : 10));
  const std::string message =
      agreed_error(ExitCode::launch, last(), [&] { agree(world(), "the model", describe_module(*net)); });
  EXPECT_THAT(message, HasSubstr(fmt::format("in the model: rank {} has `parameter 0.weight [11, 4] float32`, rank 0 "
                                             "`parameter 0.weight [10, 4] float32`",
                                             last())));
}

}  // namespace
}  // namespace lockstep
