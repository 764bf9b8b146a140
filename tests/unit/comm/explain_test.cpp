#include "comm/explain.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <new>
#include <system_error>

namespace lockstep {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

template <typename Kind>
Error explained(const std::string& text) {
  return explain(Kind({__func__, __FILE__, static_cast<uint32_t>(__LINE__)}, text));
}

// Texts as PyTorch 2.15 and NCCL 2.30 compose them.
std::string nccl_text(const std::string& result, const std::string& meaning) {
  return "NCCL error in: /pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3690, " + meaning +
         ", NCCL version 2.30.7\n" + result + ": details\nLast error:\nsocketPollConnect: connect returned\n";
}

struct Case {
  std::string text;
  ExitCode code;
  std::string what;
  std::string hint;
};

TEST(Explain, EveryResultOfNcclHasItsCodeAndHint) {
  const Case cases[] = {
      {nccl_text("ncclUnhandledCudaError", "unhandled cuda error"), ExitCode::rank_lost, "CUDA call of NCCL",
       "NCCL_DEBUG"},
      {nccl_text("ncclSystemError", "unhandled system error"), ExitCode::rank_lost, "system call of NCCL",
       "--interface"},
      {nccl_text("ncclInternalError", "internal error"), ExitCode::internal, "inside", "NCCL_DEBUG"},
      {nccl_text("ncclInvalidArgument", "invalid argument"), ExitCode::internal, "argument", "NCCL_DEBUG"},
      {nccl_text("ncclInvalidUsage", "invalid usage"), ExitCode::launch, "used wrongly", "NCCL_DEBUG"},
      {nccl_text("ncclRemoteError", "remote process exited or there was a network error"), ExitCode::rank_lost,
       "another rank", "start again"},
      {nccl_text("ncclInProgress", "NCCL operation in progress"), ExitCode::rank_lost, "deadline", "never came"},
      {"NCCL timeout in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:71, NCCL version 2.30.7",
       ExitCode::rank_lost, "deadline", "never came"},
      {nccl_text("ncclInvalidUsage", "invalid usage") +
           "Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 3b000",
       ExitCode::launch, "two ranks use one GPU", "a GPU of its own"},
  };
  for (const Case& one : cases) {
    const Error error = explained<c10::DistBackendError>(one.text);
    EXPECT_EQ(error.code(), one.code) << one.text;
    EXPECT_THAT(error.what(), HasSubstr(one.what)) << one.text;
    EXPECT_THAT(error.what(), HasSubstr("NCCL version 2.30.7")) << "PyTorch's own words follow";
    EXPECT_THAT(error.what(), Not(HasSubstr("\n")));
    EXPECT_THAT(error.hint(), HasSubstr(one.hint)) << one.text;
  }
}

TEST(Explain, TheWatchdogsVerdictIsARankLost) {
  const Error error = explained<c10::DistBackendError>(
      "[PG ID 0 PG GUID 0 Rank 1] Process group watchdog thread terminated with exception: [Rank 1] Watchdog caught "
      "collective operation timeout: WorkNCCL(SeqNum=12, OpType=ALLREDUCE, NumelIn=1, Timeout(ms)=5000) ran for 5003 "
      "ms");
  EXPECT_EQ(error.code(), ExitCode::rank_lost);
  EXPECT_THAT(error.what(), HasSubstr("watch.deadline_s"));
  EXPECT_THAT(error.what(), HasSubstr("SeqNum=12"));
  EXPECT_THAT(error.hint(), HasSubstr("start again"));
}

TEST(Explain, ErrorsOfCudaHaveTheirCodeAndHint) {
  const Case cases[] = {
      {"CUDA error: out of memory", ExitCode::usage, "not enough memory", "train.global_batch"},
      {"CUDA error: CUDA driver version is insufficient for CUDA runtime version", ExitCode::launch, "too old",
       "driver"},
      {"CUDA error: no kernel image is available for execution on the device", ExitCode::launch, "kind of GPU",
       "--device cpu"},
      {"CUDA error: uncorrectable ECC error encountered", ExitCode::rank_lost, "damage", "Xid"},
      {"CUDA error: an illegal memory access was encountered", ExitCode::internal, "code on the GPU",
       "CUDA_LAUNCH_BLOCKING"},
      {"CUDA error: CUDA-capable device(s) is/are busy or unavailable, device is busy", ExitCode::launch,
       "another process", "nvidia-smi"},
      {"CUDA error: something new", ExitCode::internal, "CUDA call failed", "report"},
  };
  for (const Case& one : cases) {
    const Error error = explained<c10::Error>(one.text);
    EXPECT_EQ(error.code(), one.code) << one.text;
    EXPECT_THAT(error.what(), HasSubstr(one.what)) << one.text;
    EXPECT_THAT(error.hint(), HasSubstr(one.hint)) << one.text;
  }
  const Error memory = explained<c10::OutOfMemoryError>(
      "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 3.00 GiB is "
      "free.");
  EXPECT_EQ(memory.code(), ExitCode::usage);
  EXPECT_THAT(memory.what(), HasSubstr("20.00 GiB"));
}

TEST(Explain, ErrorsOfTheStoreAreARankLost) {
  for (const std::string text :
       {"wait timeout after 5000ms, keys: /nccl/0", "Connection reset by peer",
        "[1] is setting up NCCL communicator and retrieving ncclUniqueId from [0] via c10d key-value "
        "store by key '0', but store->get('0') got error: wait timeout after 5000ms"}) {
    EXPECT_EQ(explained<c10::DistStoreError>(text).code(), ExitCode::rank_lost) << text;
    EXPECT_EQ(explained<c10::DistNetworkError>(text).code(), ExitCode::rank_lost) << text;
    EXPECT_THAT(explained<c10::DistStoreError>(text).hint(), HasSubstr("--interface")) << text;
  }
}

TEST(Explain, OtherErrorsKeepTheirText) {
  const Error error = explained<c10::Error>("mat1 and mat2 shapes cannot be multiplied, out of memory is not meant");
  EXPECT_EQ(error.code(), ExitCode::internal);
  EXPECT_STREQ(error.what(), "mat1 and mat2 shapes cannot be multiplied, out of memory is not meant");
  EXPECT_EQ(error.hint(), "");
}

TEST(Explain, MemoryOfTheHostThatIsUsedUpHasAHint) {
  const auto expect = [](const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage) << error.what();
    EXPECT_THAT(error.what(), HasSubstr("not enough memory"));
    EXPECT_THAT(error.hint(), HasSubstr("global_batch"));
    EXPECT_THAT(error.what(), Not(HasSubstr("\n")));
  };
  const auto current = [](auto work) {
    try {
      work();
    } catch (...) {
      return current_error();
    }
    return Error(ExitCode::done, "nothing was thrown");
  };
  expect(current([] { throw std::bad_alloc(); }));
  expect(current([] { at::empty({int64_t{1} << 50}); }));  // LibTorch's own words
  expect(current([] { throw std::system_error(ENOMEM, std::generic_category()); }));
  expect(explained<c10::OutOfMemoryError>("std::bad_alloc"));
  const Error threads = current([] { throw std::system_error(EAGAIN, std::generic_category()); });
  EXPECT_EQ(threads.code(), ExitCode::io);
  EXPECT_THAT(threads.hint(), HasSubstr("ulimit -u"));
}

TEST(Explain, LongTextsAreCut) {
  const Error error = explained<c10::Error>(std::string(5000, 'x'));
  EXPECT_LT(std::string(error.what()).size(), 500U);
}

}  // namespace
}  // namespace lockstep
