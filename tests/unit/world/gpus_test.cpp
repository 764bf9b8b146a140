#include "world/gpus.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lockstep/world.h"

namespace lockstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int64_t kGib = int64_t{1} << 30;

Gpu gpu(const std::string& host, int index) {
  return {.name = "NVIDIA H200",
          .uuid = fmt::format("GPU-{}-{}", host, index),
          .pci = fmt::format("0000:{:02x}:00.0", index),
          .memory_bytes = 141 * kGib};
}

// `ranks` ranks on a host that all see its first `count` GPUs.
std::vector<RankGpus> host(const std::string& name, int ranks, int count) {
  std::vector<RankGpus> all;
  for (int local = 0; local < ranks; ++local) {
    RankGpus& rank = all.emplace_back(RankGpus{.host = name, .local_rank = local, .local_size = ranks, .sees = {}});
    for (int i = 0; i < count; ++i) rank.sees.gpus.push_back(gpu(name, i));
    if (count == 0) rank.sees.problem = "no NVIDIA driver";
  }
  return all;
}

std::vector<RankGpus> operator+(std::vector<RankGpus> left, const std::vector<RankGpus>& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

// `count` ranks of one host, each given one GPU by its launcher.
std::vector<RankGpus> one_each(const std::string& name, int count) {
  std::vector<RankGpus> ranks = host(name, count, 0);
  for (RankGpus& rank : ranks) {
    rank.sees.problem.clear();
    rank.sees.visible = fmt::format("CUDA_VISIBLE_DEVICES={}", rank.local_rank);
    rank.sees.gpus = {gpu(name, rank.local_rank)};
  }
  return ranks;
}

AgreedError refusal(DeviceWish wish, const std::vector<RankGpus>& ranks) {
  try {
    choose_gpus(wish, ranks);
  } catch (const AgreedError& error) {
    EXPECT_EQ(error.code(), ExitCode::launch);
    EXPECT_FALSE(error.hint().empty());
    // The table: a line a rank, with its host.
    const std::string text = error.what();
    EXPECT_THAT(text, HasSubstr("\n  rank  host"));
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), static_cast<long>(ranks.size()) + 1) << text;
    return error;
  }
  ADD_FAILURE() << "not refused";
  return AgreedError(Error(ExitCode::done, ""), -1);
}

TEST(Gpus, ARankTakesTheOneAtItsLocalRank) {
  EXPECT_THAT(choose_gpus(DeviceWish::automatic, host("a", 1, 1)), ElementsAre(0));
  EXPECT_THAT(choose_gpus(DeviceWish::cuda, host("a", 2, 2)), ElementsAre(0, 1));
  EXPECT_THAT(choose_gpus(DeviceWish::cuda, host("a", 8, 8)), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
}

TEST(Gpus, MoreGpusThanRanksAreLeftAlone) {
  EXPECT_THAT(choose_gpus(DeviceWish::automatic, host("a", 2, 8)), ElementsAre(0, 1));
}

TEST(Gpus, HostsMayHaveDifferentCounts) {
  EXPECT_THAT(choose_gpus(DeviceWish::automatic, host("a", 2, 2) + host("b", 1, 4) + host("c", 3, 8)),
              ElementsAre(0, 1, 0, 0, 1, 2));
}

TEST(Gpus, OneVisibleForEachTaskIsItsOwn) {
  EXPECT_THAT(choose_gpus(DeviceWish::automatic, one_each("a", 4) + one_each("b", 2)), ElementsAre(0, 0, 0, 0, 0, 0));
}

TEST(Gpus, TasksThatSeeSeveralOfTheirOwnTakeTheFirst) {
  auto ranks = host("a", 2, 0);
  ranks[0].sees.gpus = {gpu("a", 0), gpu("a", 1)};
  ranks[1].sees.gpus = {gpu("a", 2), gpu("a", 3)};
  EXPECT_THAT(choose_gpus(DeviceWish::cuda, ranks), ElementsAre(0, 0));
}

TEST(Gpus, WhereNobodySeesOneAutomaticMeansTheCpuAndCudaIsRefused) {
  EXPECT_THAT(choose_gpus(DeviceWish::automatic, host("a", 2, 0)), ElementsAre(-1, -1));
  const AgreedError error = refusal(DeviceWish::cuda, host("a", 2, 0));
  EXPECT_EQ(error.rank(), 0);
  EXPECT_THAT(error.what(), StartsWith("rank 0 on a sees no GPU: no NVIDIA driver\n"));
  EXPECT_THAT(error.hint(), HasSubstr("--device cpu"));
}

TEST(Gpus, CpuIsTheCpuWhateverThereIs) {
  EXPECT_THAT(choose_gpus(DeviceWish::cpu, host("a", 2, 8)), ElementsAre(-1, -1));
}

TEST(Gpus, ARankWithoutADriverAmongOthersWithGpusIsNamed) {
  for (const DeviceWish wish : {DeviceWish::automatic, DeviceWish::cuda}) {
    const AgreedError error = refusal(wish, host("a", 2, 2) + host("b", 1, 0));
    EXPECT_EQ(error.rank(), 2);
    EXPECT_THAT(error.what(), StartsWith("rank 2 on b sees no GPU while others do: no NVIDIA driver\n"));
    EXPECT_THAT(error.what(), HasSubstr("1: NVIDIA H200, 141 GiB, GPU-a-1"));
    EXPECT_THAT(error.what(), HasSubstr("none (no NVIDIA driver)"));
  }
}

TEST(Gpus, FewerThanLocalRanksAreRefused) {
  const AgreedError error = refusal(DeviceWish::automatic, host("a", 4, 4) + host("b", 4, 2));
  EXPECT_EQ(error.rank(), 6);
  EXPECT_THAT(error.what(), StartsWith("rank 6 has no GPU of its own: b has 4 ranks and 2 GPUs\n"));
  EXPECT_THAT(error.hint(), HasSubstr("at most 2 ranks on b"));
}

TEST(Gpus, AMaskThatGivesAllRanksOneGpuIsNamedInTheHint) {
  auto ranks = host("a", 2, 1);
  for (RankGpus& rank : ranks) rank.sees.visible = "CUDA_VISIBLE_DEVICES=3";
  const AgreedError error = refusal(DeviceWish::automatic, ranks);
  EXPECT_THAT(error.what(), StartsWith("rank 1 has no GPU of its own: a has 2 ranks and 1 GPU\n"));
  EXPECT_THAT(error.what(), HasSubstr("CUDA_VISIBLE_DEVICES=3"));
  EXPECT_THAT(error.hint(), HasSubstr("CUDA_VISIBLE_DEVICES"));
}

TEST(Gpus, TwoTasksGivenTheSameGpuAreRefusedByItsUuid) {
  auto ranks = one_each("a", 3);
  ranks[2].sees.gpus = ranks[0].sees.gpus;
  ranks[1].sees.gpus.push_back(gpu("a", 7));  // enough GPUs on the host, wrongly given out
  const AgreedError error = refusal(DeviceWish::cuda, ranks);
  EXPECT_EQ(error.rank(), 2);
  EXPECT_THAT(error.what(), StartsWith("ranks 0 and 2 on a would use one GPU, GPU-a-0\n"));
}

TEST(Gpus, OneUuidOnTwoHostsIsTwoGpus) {
  auto ranks = one_each("a", 1) + one_each("b", 1);
  ranks[1].sees.gpus = ranks[0].sees.gpus;
  EXPECT_THAT(choose_gpus(DeviceWish::cuda, ranks), ElementsAre(0, 0));
}

TEST(Gpus, ASliceServesOneRankAndTwoSlicesOfOneGpuAreRefused) {
  const Gpu slice = {.name = "NVIDIA H200 MIG 1g.18gb", .uuid = "MIG-1", .pci = "0000:01:00.0", .memory_bytes = kGib};
  auto ranks = host("a", 2, 0);
  ranks[0].sees.gpus = {slice};
  ranks[1].sees.gpus = {gpu("a", 5)};
  EXPECT_THAT(choose_gpus(DeviceWish::cuda, ranks), ElementsAre(0, 0));
  ranks[1].sees.gpus = {slice};
  ranks[1].sees.gpus[0].uuid = "MIG-2";
  const AgreedError error = refusal(DeviceWish::cuda, ranks);
  EXPECT_THAT(error.what(), StartsWith("ranks 0 and 1 on a would use slices of one GPU, 0000:01:00.0"));
}

TEST(Gpus, RanksMayShareWhereNcclAllowsItAndAllAskForIt) {
  auto ranks = host("a", 4, 2);
  for (RankGpus& rank : ranks) rank.sees.may_share = true;
  EXPECT_THAT(choose_gpus(DeviceWish::cuda, ranks), ElementsAre(0, 1, 0, 1));
  ranks[3].sees.may_share = false;
  EXPECT_EQ(refusal(DeviceWish::cuda, ranks).rank(), 2);
}

TEST(Gpus, WhatARankSeesSurvivesTheWayToOthers) {
  RankGpus rank = host("ä \"b\"", 1, 2)[0];
  rank.sees.visible = "CUDA_VISIBLE_DEVICES=GPU-1,MIG-2";
  rank.sees.problem = "none";
  rank.sees.may_share = true;
  const RankGpus back = rank_gpus_from_text(to_text(rank));
  EXPECT_EQ(back.host, rank.host);
  EXPECT_EQ(back.local_size, rank.local_size);
  EXPECT_EQ(back.sees, rank.sees);
}

}  // namespace
}  // namespace lockstep
