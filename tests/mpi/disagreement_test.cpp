// Ranks that make different collectives: one error on every rank that names the calls, and no wrong number. On
// communicators and with a comm thread of each test's own, which do not recover from it.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mpi.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "comm/mpi/mpi_backend.h"
#include "lockstep/error.h"
#include "mpi_main.h"
#include "world/world_impl.h"

namespace lockstep {
namespace {

using testing::AllOf;
using testing::HasSubstr;

enum class Way { messages, memory };

// Never freed: messages that met nobody are still on its communicators.
MPI_Comm new_communicator() {
  MPI_Comm comm = MPI_COMM_NULL;
  MPI_Comm_dup(world().impl().comm, &comm);
  return comm;
}

struct OwnJob {
  explicit OwnJob(Way way) {
    const World::Impl& impl = world().impl();
    thread.watch({.comm = roll_call,
                  .place = [](int rank) { return rank == world().rank() ? "" : fmt::format("rank {} there", rank); },
                  .where = [this] { return where.now(); },
                  .last_step = [this] { return where.last_step(); },
                  .on_asked = [] {}});
    backend = c10::make_intrusive<MpiBackend>(comm, messages, impl.rank, impl.size, thread,
                                              way == Way::memory ? SharedMemory::make(world()) : nullptr);
    where.enter("testing", 7);
  }
  MPI_Comm comm = new_communicator(), messages = new_communicator(), roll_call = new_communicator();
  Whereabouts where;
  CommThread thread{comm, false};
  c10::intrusive_ptr<MpiBackend> backend;
};

bool odd_one() { return world().rank() == world().size() - 1; }

std::string error_of(const std::function<void()>& work) {
  const auto started = std::chrono::steady_clock::now();
  std::string said = "no error";
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::internal) << error.what();
    EXPECT_NE(error.hint(), "");
    said = error.what();
  }
  EXPECT_LT(std::chrono::steady_clock::now() - started, std::chrono::seconds(15));
  world().barrier();  // each rank answers until all know
  return said;
}

std::string allreduce(OwnJob& job, const at::Tensor& tensor, c10d::ReduceOp::RedOpType op = c10d::ReduceOp::SUM) {
  return error_of([&] {
    std::vector<at::Tensor> tensors = {tensor};
    c10d::AllreduceOptions options;
    options.reduceOp = op;
    job.backend->allreduce(tensors, options)->wait();
  });
}

class Disagreeing : public testing::TestWithParam<Way> {
 protected:
  void SetUp() override {
    if (world().size() == 1) GTEST_SKIP() << "needs two ranks";
    if (GetParam() == Way::memory && test::nothing_to_share()) GTEST_SKIP() << test::kNothingToShare;
  }
};

TEST_P(Disagreeing, LengthsOfAnAllReduceAreNamedOnEveryRank) {
  for (const int64_t elements : {4, 100'000}) {
    OwnJob job(GetParam());
    const std::string said = allreduce(job, at::ones({odd_one() ? 2 * elements : elements}));
    EXPECT_THAT(said, AllOf(HasSubstr(fmt::format("sum of {} float32, {} bytes", elements, 4 * elements)),
                            HasSubstr(fmt::format("sum of {} float32, {} bytes", 2 * elements, 8 * elements))));
  }
}

TEST_P(Disagreeing, TypesAndOperationsOfAnAllReduceAreNamedOnEveryRank) {
  OwnJob job(GetParam());
  EXPECT_THAT(allreduce(job, odd_one() ? at::ones({4}, at::kDouble) : at::ones({8})),
              AllOf(HasSubstr("8 float32, 32 bytes"), HasSubstr("4 float64, 32 bytes")));
  OwnJob other(GetParam());
  EXPECT_THAT(allreduce(other, at::ones({8}), odd_one() ? c10d::ReduceOp::MAX : c10d::ReduceOp::SUM),
              AllOf(HasSubstr("sum of 8"), HasSubstr("max of 8")));
}

TEST_P(Disagreeing, TwoKindsOfCollectivesAreNamedWithTheirNumbersAndSteps) {
  OwnJob job(GetParam());
  std::vector<at::Tensor> before = {at::ones({3})};
  job.backend->allreduce(before, c10d::AllreduceOptions())->wait();
  const std::string said = error_of([&] {
    if (odd_one()) {
      at::Tensor input = at::ones({4}), output = at::empty({4 * world().size()});
      job.backend->all_gather_single(output, input, {});
    } else {
      std::vector<at::Tensor> tensors = {at::ones({4})};
      job.backend->allreduce(tensors, c10d::AllreduceOptions())->wait();
    }
  });
  EXPECT_THAT(said, AllOf(HasSubstr("all-reduce 2 (sum of 4 float32, 16 bytes) in testing of step 7"),
                          HasSubstr("all-gather 2 (4 float32, 16 bytes) in testing of step 7")));
  EXPECT_THAT(said, HasSubstr(fmt::format("rank {}", world().size() - 1)));
}

std::string way_name(const testing::TestParamInfo<Way>& test) {
  return test.param == Way::memory ? "through_memory" : "by_messages";
}
INSTANTIATE_TEST_SUITE_P(Ways, Disagreeing, testing::Values(Way::messages, Way::memory), way_name);

TEST(Disagreement, LengthsAndRootsAreNamedWhateverTheCollective) {
  if (world().size() == 1) GTEST_SKIP() << "needs two ranks";
  const int64_t elements = odd_one() ? 12 : 8;
  const int64_t last = world().size() - 1;
  const auto both = AllOf(HasSubstr("8 float32"), HasSubstr("12 float32"));
  {
    OwnJob job(Way::messages);
    std::vector<at::Tensor> tensors = {at::ones({elements})};
    EXPECT_THAT(error_of([&] { job.backend->broadcast(tensors, {})->wait(); }), both);
    EXPECT_TRUE(at::equal(tensors[0], at::ones({elements})));
  }
  {
    OwnJob job(Way::messages);
    at::Tensor input = at::ones({elements}), output = at::empty({elements * world().size()});
    EXPECT_THAT(error_of([&] { job.backend->all_gather_single(output, input, {}); }), both);
  }
  {
    OwnJob job(Way::messages);
    at::Tensor input = at::ones({elements * world().size()}), output = at::empty({elements});
    EXPECT_THAT(error_of([&] { job.backend->reduce_scatter_single(output, input, {}); }),
                AllOf(HasSubstr(fmt::format("sum of {} float32", 8 * world().size())),
                      HasSubstr(fmt::format("sum of {} float32", 12 * world().size()))));
  }
  {
    OwnJob job(Way::messages);
    std::vector<at::Tensor> tensors = {at::ones({8})};
    c10d::BroadcastOptions options;
    options.rootRank = world().rank();
    EXPECT_THAT(error_of([&] { job.backend->broadcast(tensors, options)->wait(); }),
                AllOf(HasSubstr("from rank 0"), HasSubstr(fmt::format("from rank {}", last))));
  }
}

TEST(Disagreement, ACollectiveMoreOnOneRankIsFoundAtTheNext) {
  if (world().size() == 1) GTEST_SKIP() << "needs two ranks";
  OwnJob job(Way::messages);
  std::vector<at::Tensor> tensors = {at::ones({8})};
  if (odd_one()) job.backend->allreduce(tensors, c10d::AllreduceOptions());
  EXPECT_THAT(error_of([&] { job.backend->barrier({}); }), AllOf(HasSubstr("barrier 1"), HasSubstr("barrier 2")));
}

// Only a comparison of what each thread does could tell which is which, so the deadline has to.
TEST(Disagreement, CallsOfSeveralThreadsAreNotCompared) {
  OwnJob job(Way::messages);
  job.backend->barrier({});
  std::thread([&] { job.backend->barrier({}); }).join();
  EXPECT_FALSE(job.thread.one_caller());
  std::vector<at::Tensor> tensors = {at::ones({8})};
  if (odd_one()) job.backend->allreduce(tensors, c10d::AllreduceOptions());
  job.backend->barrier({});
  if (!odd_one()) job.backend->allreduce(tensors, c10d::AllreduceOptions())->wait();
  world().barrier();
}

TEST(MpiBackend, LongMessagesTravelInPieces) {
  OwnJob job(Way::messages);
  job.backend->set_longest_message(64);
  const int n = world().size();
  const int next = (world().rank() + 1) % n, previous = (world().rank() + n - 1) % n;
  for (const int64_t elements : {0, 16, 17, 1000}) {
    const auto values = [&](int rank) { return at::arange(elements, at::kFloat) + 1000.0F * static_cast<float>(rank); };
    std::vector<at::Tensor> sent = {values(world().rank())}, received = {at::empty({elements})};
    const auto receive = job.backend->recv(received, previous, 5);
    job.backend->send(sent, next, 5)->wait();
    receive->wait();
    EXPECT_TRUE(at::equal(received[0], values(previous))) << elements;
    std::vector<at::Tensor> copied = {values(world().rank())};
    c10d::BroadcastOptions options;
    options.rootRank = n - 1;
    const auto first = job.backend->broadcast(copied, options);
    std::vector<at::Tensor> also = {values(world().rank() + 1)};
    job.backend->broadcast(also, options)->wait();  // beside the other one, whose pieces come first
    first->wait();
    EXPECT_TRUE(at::equal(copied[0], values(n - 1)) && at::equal(also[0], values(n))) << elements;
    at::Tensor gathered = at::empty({n, elements});
    job.backend->all_gather_single(gathered, sent[0], {});
    for (int rank = 0; rank < n; ++rank) EXPECT_TRUE(at::equal(gathered[rank], values(rank))) << elements;
    at::Tensor all = at::cat(std::vector<at::Tensor>(static_cast<size_t>(n), values(0))), part = at::empty({elements});
    job.backend->reduce_scatter_single(part, all, {});
    EXPECT_TRUE(at::equal(part, values(0) * n)) << elements;
  }
}

}  // namespace
}  // namespace lockstep
