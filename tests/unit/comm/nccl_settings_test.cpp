#include "comm/nccl/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

namespace lockstep {
namespace {

using ::testing::Contains;
using ::testing::Not;
using ::testing::Pair;

TEST(NcclSettings, TheDeadlineBoundsTheStartAndTheWatchdog) {
  const auto set = nccl_environment(2.5, "");
  EXPECT_THAT(set, Contains(Pair("TORCH_NCCL_NONBLOCKING_TIMEOUT", "3")));
  EXPECT_THAT(set, Contains(Pair("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", "60")));
  EXPECT_THAT(nccl_environment(300, ""), Contains(Pair("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", "600")));
  EXPECT_THAT(nccl_environment(0, ""), Not(Contains(Pair("TORCH_NCCL_NONBLOCKING_TIMEOUT", testing::_))));
}

TEST(NcclSettings, ErrorsEndTheProcessAfterTheirReports) {
  const auto set = nccl_environment(300, "");
  for (const char* on : {"TORCH_NCCL_DESYNC_DEBUG", "TORCH_FR_DUMP_ON_TIMEOUT", "TORCH_NCCL_ENABLE_MONITORING",
                         "TORCH_NCCL_TEARDOWN_ON_TIMEOUT", "TORCH_NCCL_RETHROW_CUDA_ERRORS"}) {
    EXPECT_THAT(set, Contains(Pair(on, "1")));
  }
  EXPECT_THAT(set, Contains(Pair("TORCH_NCCL_ASYNC_ERROR_HANDLING", "3")));
  EXPECT_THAT(set, Contains(Pair("TORCH_FR_BUFFER_SIZE", "2000")));
}

TEST(NcclSettings, AnInterfaceIsMeantExactly) {
  EXPECT_THAT(nccl_environment(1, "eth0"), Contains(Pair("NCCL_SOCKET_IFNAME", "=eth0")));
  EXPECT_THAT(nccl_environment(1, ""), Not(Contains(Pair("NCCL_SOCKET_IFNAME", testing::_))));
}

TEST(NcclSettings, WhatTheUserSetStays) {
  setenv("LOCKSTEP_TEST_SET", "mine", 1);
  unsetenv("LOCKSTEP_TEST_UNSET");
  apply_nccl_environment({{"LOCKSTEP_TEST_SET", "ours"}, {"LOCKSTEP_TEST_UNSET", "ours"}});
  EXPECT_STREQ(std::getenv("LOCKSTEP_TEST_SET"), "mine");
  EXPECT_STREQ(std::getenv("LOCKSTEP_TEST_UNSET"), "ours");
}

}  // namespace
}  // namespace lockstep
