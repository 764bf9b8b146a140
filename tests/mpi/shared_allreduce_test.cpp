// All-reduces through memory that the ranks of this host share, beside those of messages.
#include "comm/shared/allreduce.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "comm/mpi/mpi_backend.h"
#include "lockstep/error.h"
#include "mpi_main.h"
#include "store/digest.h"
#include "world/world_impl.h"

namespace lockstep {
namespace {

constexpr int64_t kPieceElements = SharedBoard::kPlaceBytes / 4;

using BackendPointer = c10::intrusive_ptr<MpiBackend>;

BackendPointer backend(CommThread& thread, const std::shared_ptr<SharedMemory>& memory) {
  World::Impl& impl = world().impl();
  return c10::make_intrusive<MpiBackend>(impl.comm, impl.messages, impl.rank, impl.size, thread, memory);
}

BackendPointer by_messages() { return backend(*world().impl().comm_thread, nullptr); }

struct Job {
  std::shared_ptr<SharedMemory> memory = SharedMemory::make(world());
  BackendPointer backend = lockstep::backend(*world().impl().comm_thread, memory);
};

// Of tensors that lie where the others can read them, on every rank, or on one.
enum class Memory { own, shared, shared_on_rank_0 };

at::Tensor tensor_in(Job& job, Memory where, const at::Tensor& values) {
  if (where == Memory::own || (where == Memory::shared_on_rank_0 && world().rank() != 0)) return values.clone();
  auto memory = std::make_shared<c10::DataPtr>(job.memory->take(values.nbytes()));
  at::Tensor tensor = at::from_blob(
      memory->get(), values.sizes(), [memory](void*) mutable { memory.reset(); }, values.options());
  return tensor.copy_(values);
}

c10::intrusive_ptr<c10d::Work> sum(const BackendPointer& backend, const at::Tensor& tensor) {
  std::vector<at::Tensor> tensors = {tensor};
  return backend->allreduce(tensors, c10d::AllreduceOptions());
}

class SharedAllreduceTest : public testing::Test {
 protected:
  void SetUp() override {
    if (test::nothing_to_share()) GTEST_SKIP() << test::kNothingToShare;
    ASSERT_NE(job.memory, nullptr);
  }

  Job job;
};

class SharedAllreduceIn : public SharedAllreduceTest, public testing::WithParamInterface<Memory> {};

TEST_P(SharedAllreduceIn, HasTheBitsOfMessages) {
  const BackendPointer messages = by_messages();
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    for (const int64_t elements : {0L, 1L, 5L, 100L, 1023L, 1025L, 16'384L, 70'001L, 145'498L, kPieceElements,
                                   kPieceElements + 3, 3 * kPieceElements + 12'345}) {
      at::manual_seed(static_cast<uint64_t>(100 * world().rank() + elements % 97));
      const at::Tensor values = at::randn({elements}).to(type);
      const at::Tensor ours = tensor_in(job, GetParam(), values);
      const at::Tensor theirs = values.clone();
      sum(job.backend, ours)->wait();
      sum(messages, theirs)->wait();
      EXPECT_TRUE(at::equal(ours, theirs)) << elements << " elements of " << c10::toString(type);
    }
  }
}

TEST_P(SharedAllreduceIn, MayBeUnderWayWithManyOthers) {
  for (const bool overlap : {true, false}) {
    job.backend->set_overlap(overlap);
    std::vector<at::Tensor> tensors;
    std::vector<c10::intrusive_ptr<c10d::Work>> works;
    for (int i = 0; i < 150; ++i) {  // more than there are lines and places
      const int64_t elements = i % 10 == 0 ? kPieceElements + i : 1 + i * 100;
      tensors.push_back(tensor_in(job, GetParam(), at::full({elements}, static_cast<float>(world().rank() + i))));
      works.push_back(sum(job.backend, tensors.back()));
    }
    for (size_t i = works.size(); i-- > 0;) {
      works[i]->wait();
      const auto n = static_cast<float>(world().size());
      const float expected = n * static_cast<float>(i) + n * (n - 1) / 2;
      EXPECT_TRUE(at::equal(tensors[i], at::full_like(tensors[i], expected))) << i;
    }
  }
}

// The others may still read a rank's values when its own sums are made: it must not get them back before.
TEST_P(SharedAllreduceIn, GivesTheBufferBackWhenNobodyReadsIt) {
  const at::Tensor tensor = tensor_in(job, GetParam(), at::zeros({150'000}));
  for (int i = 0; i < 200; ++i) {
    tensor.fill_(static_cast<float>(world().rank() + i));
    if (i % 7 == world().rank()) std::this_thread::sleep_for(std::chrono::microseconds(300));
    sum(job.backend, tensor)->wait();
    const auto n = static_cast<float>(world().size());
    const float expected = n * static_cast<float>(i) + n * (n - 1) / 2;
    ASSERT_TRUE(at::equal(tensor, at::full_like(tensor, expected))) << i;
    tensor.fill_(-1e9f);
  }
}

// Sums of NaNs, and the larger of a NaN and a number, may be either operand's; the ranks must agree whose.
TEST_P(SharedAllreduceIn, GivesAllRanksOneNanAndOneZero) {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    for (const auto op : {c10d::ReduceOp::SUM, c10d::ReduceOp::MAX, c10d::ReduceOp::MIN}) {
      for (const int64_t elements : {8, 100'000}) {
        at::Tensor values = at::full({elements}, 0x7fc00000 + world().rank(), at::kInt).view(at::kFloat).clone();
        values.slice(0, 0, {}, 4).fill_(world().rank() == 0 ? 0.0 : -0.0);
        values.slice(0, 1, {}, 4).fill_(world().rank() == 0 ? std::nan("") : 1.0);
        const at::Tensor tensor = tensor_in(job, GetParam(), values.to(type));
        std::vector<at::Tensor> tensors = {tensor};
        c10d::AllreduceOptions options;
        options.reduceOp = op;
        job.backend->allreduce(tensors, options)->wait();
        EXPECT_EQ(world().all_gather(digest_tensor(tensor)),
                  std::vector<std::string>(static_cast<size_t>(world().size()), digest_tensor(tensor)));
      }
    }
  }
}

std::string name_of(const testing::TestParamInfo<Memory>& test) {
  switch (test.param) {
    case Memory::own:
      return "own";
    case Memory::shared:
      return "shared";
    default:
      return "shared_on_rank_0";
  }
}

INSTANTIATE_TEST_SUITE_P(Memory, SharedAllreduceIn,
                         testing::Values(Memory::own, Memory::shared, Memory::shared_on_rank_0), name_of);

TEST_F(SharedAllreduceTest, SaysThatRanksDisagree) {
  CommThread thread(world().impl().comm, false);
  const BackendPointer broken = backend(thread, job.memory);
  try {
    sum(broken, at::zeros({test::last() == world().rank() ? 11 : 10}))->wait();
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::internal);
    EXPECT_NE(std::string(error.what()).find("44"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("40"), std::string::npos) << error.what();
  }
}

TEST_F(SharedAllreduceTest, SaysSoWhenOnlyALaterPieceIsMissing) {
  CommThread thread(world().impl().comm, false);
  thread.set_deadline(5);
  const BackendPointer broken = backend(thread, job.memory);
  const int64_t elements = kPieceElements + (test::last() == world().rank() ? 8 : 0);
  try {
    sum(broken, at::zeros({elements}))->wait();
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::internal) << error.what();
  }
}

TEST_F(SharedAllreduceTest, ThatWaitsTooLongNamesTheRank) {
  CommThread thread(world().impl().comm, false);
  thread.set_deadline(0.2);
  const BackendPointer late = backend(thread, job.memory);
  if (world().rank() != test::last()) {
    try {
      sum(late, at::zeros({100}))->wait();
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::rank_lost);
      const std::string rank = "rank " + std::to_string(test::last());
      EXPECT_NE(std::string(error.what()).find(rank), std::string::npos) << error.what();
    }
  }
  world().barrier();
}

TEST(SharedMemory, IsGivenOutAgainAndOutlivesItsMaker) {
  std::shared_ptr<SharedMemory> memory = SharedMemory::make(world());
  if (test::nothing_to_share()) GTEST_SKIP() << test::kNothingToShare;
  ASSERT_NE(memory, nullptr);
  const char* const mine = memory->mine();
  c10::DataPtr first = memory->take(10'000);
  c10::DataPtr second = memory->take(1);
  const void* const at = first.get();
  EXPECT_NE(second.get(), at);
  EXPECT_EQ(memory->offset_of(at, 10'000), static_cast<size_t>(static_cast<const char*>(at) - mine));
  EXPECT_EQ(memory->offset_of(&memory, 1), std::nullopt);
  first.clear();
  second.clear();
  first = memory->take(20'000);  // the two are one again
  EXPECT_EQ(first.get(), at);
  EXPECT_FALSE(memory->take(size_t{1} << 40));
  memory.reset();
  std::memset(first.get(), 1, 20'000);
}

}  // namespace
}  // namespace lockstep
