#include "kernels/parallel.h"

#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

namespace lockstep::kernels {
namespace {

class ParallelFor : public testing::Test {
 protected:
  void SetUp() override { at::set_num_threads(3); }
  void TearDown() override { at::set_num_threads(before_); }

 private:
  int before_ = at::get_num_threads();
};

TEST_F(ParallelFor, CallsForEachIndexOnce) {
  for (const int64_t count : {0, 1, 2, 3, 7, 100}) {
    for (const int64_t grain : {1, 2, 50, 1000}) {
      std::vector<int> calls(static_cast<size_t>(count));  // each by one thread
      parallel_for(5, 5 + count, grain, [&](int64_t first, int64_t last) {
        EXPECT_LT(first, last);
        for (int64_t i = first; i < last; ++i) ++calls[static_cast<size_t>(i - 5)];
      });
      EXPECT_THAT(calls, testing::Each(1)) << count << ' ' << grain;
    }
  }
}

TEST_F(ParallelFor, IsDoneByThreadsAtTheSameTime) {  // two pieces that wait for each other
  std::atomic<int> waiting = 0;
  std::atomic<int> met = 0;
  parallel_for(0, 2, 1, [&](int64_t, int64_t) {
    ++waiting;
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (waiting < 2 && std::chrono::steady_clock::now() < until) std::this_thread::yield();
    if (waiting == 2) ++met;
  });
  EXPECT_EQ(met, 2);
}

TEST_F(ParallelFor, IsDoneByOneThreadInsideAnother) {
  std::atomic<int> calls = 0;
  parallel_for(0, 2, 1, [&](int64_t, int64_t) {
    const auto thread = std::this_thread::get_id();
    parallel_for(0, 4, 1, [&](int64_t first, int64_t last) {
      EXPECT_EQ(std::this_thread::get_id(), thread);
      calls += static_cast<int>(last - first);
    });
  });
  EXPECT_EQ(calls, 8);
}

TEST_F(ParallelFor, ThrowsWhatABodyThrows) {
  std::atomic<int> calls = 0;
  EXPECT_THROW(parallel_for(0, 3, 1,
                            [&](int64_t first, int64_t) {
                              ++calls;
                              if (first == 1) throw std::runtime_error("one");
                            }),
               std::runtime_error);
  EXPECT_EQ(calls, 3);
}

}  // namespace
}  // namespace lockstep::kernels
