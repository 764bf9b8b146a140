// What ProcessGroupNCCL is given, and what the GPU part says of itself, on a machine without a GPU.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <c10/cuda/CUDAFunctions.h>

#include <chrono>
#include <torch/csrc/distributed/c10d/HashStore.hpp>

#include "cuda/nccl.h"

namespace lockstep {
namespace {

TEST(NcclOptions, TheDeadlineIsTheTimeoutOfEveryCollective) {
  EXPECT_EQ(nccl_options({.deadline_s = 2.5})->timeout, std::chrono::milliseconds(2500));
  EXPECT_EQ(nccl_options({.deadline_s = 0})->timeout, std::chrono::hours(24 * 365));
}

TEST(NcclOptions, GradientsGoFirstAndTheStartIsPytorchs) {
  const auto options = nccl_options({.rank = 1, .size = 4, .gpu = 1, .deadline_s = 300});
  EXPECT_EQ(options->config.blocking, NCCL_CONFIG_UNDEF_INT);
  EXPECT_TRUE(options->is_high_priority_stream);
  EXPECT_EQ(options->split_from, nullptr);
}

TEST(GpuPart, LoadsWithoutADriverAndSaysWhatItIs) {
  std::string problem;
  const std::string file = find_gpu_part();
  ASSERT_NE(file, "");
  const GpuPart* part = load_gpu_part_from(file, problem);
  ASSERT_NE(part, nullptr) << problem;
  EXPECT_EQ(part->nccl_loaded(), part->nccl_of_headers);
  EXPECT_THAT(part->versions(), testing::MatchesRegex("CUDA [0-9.]+, .*driver.*, NCCL 2[.][0-9]+[.][0-9]+"));
}

TEST(GpuPart, SeesNoGpuWhereThereIsNoneAndSaysWhy) {
  std::string problem;
  const GpuPart* part = load_gpu_part_from(find_gpu_part(), problem);
  ASSERT_NE(part, nullptr) << problem;
  const VisibleGpus sees = part->look();
  if (!sees.gpus.empty()) GTEST_SKIP() << "this machine has a GPU";
  EXPECT_NE(sees.problem, "");
}

TEST(GpuPart, ANcclGroupWithoutAGpuIsAnErrorAndNoCrash) {
  if (c10::cuda::device_count() > 0) GTEST_SKIP() << "this machine has a GPU";
  EXPECT_THROW(make_nccl(c10::make_intrusive<c10d::HashStore>(), {.rank = 0, .size = 1}), std::exception);
}

TEST(GpuPart, AnotherBuildsPartIsRefused) {
  std::string problem;
  EXPECT_EQ(load_gpu_part_from("/none/liblockstep_cuda.so", problem), nullptr);
  EXPECT_THAT(problem, testing::HasSubstr("cannot be loaded"));
  EXPECT_EQ(load_gpu_part_from("libm.so.6", problem), nullptr);
  EXPECT_THAT(problem, testing::HasSubstr("another build"));
}

}  // namespace
}  // namespace lockstep
