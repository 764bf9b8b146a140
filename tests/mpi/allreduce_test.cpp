// The all-reduce of messages as between hosts: other parts and other rounds than within one, and the same bits.
#include "comm/mpi/allreduce.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <vector>

#include "mpi_main.h"
#include "world/world_impl.h"

namespace lockstep {
namespace {

AllreduceOperation::Options options(const at::Tensor& buffer, MPI_Op op, bool several_hosts, int tag) {
  static const auto pool = std::make_shared<ScratchPool>();
  const World::Impl& impl = world().impl();
  return {.buffer = buffer,
          .type = MPI_FLOAT,
          .op = op,
          .comm = impl.messages,
          .rank = impl.rank,
          .size = impl.size,
          .tag = tag,
          .pool = pool,
          .several_hosts = several_hosts};
}

std::shared_ptr<AllreduceOperation> sum_of(const at::Tensor& buffer, bool several_hosts, int tag = 0) {
  return std::make_shared<AllreduceOperation>(options(buffer, MPI_SUM, several_hosts, tag));
}

at::Tensor values(int64_t elements) {
  at::manual_seed(1000 * world().rank() + elements);
  return at::randn({elements});
}

CommThread& thread() { return *world().impl().comm_thread; }

TEST(Allreduce, BetweenHostsItHasTheBitsOfOneHost) {
  // Around a message's size between hosts, 65536 elements and an eighth, and beyond what two of them exchange as a
  // whole.
  for (const int64_t elements : {0, 1, 2, 1025, 65536, 65537, 73728, 73729, 147457, 200001, 4194304, 4194305}) {
    const at::Tensor within = values(elements), between = within.clone();
    thread().run(sum_of(within, false));
    thread().run(sum_of(between, true));
    EXPECT_TRUE(at::equal(between, within)) << elements;
  }
}

TEST(Allreduce, SeveralBetweenHostsAreUnderWayTogether) {
  std::vector<at::Tensor> within, between;
  std::vector<std::shared_ptr<AllreduceOperation>> operations;
  for (int i = 0; i < 8; ++i) {
    within.push_back(values(70001 * (i + 1)));
    between.push_back(within.back().clone());
    thread().run(sum_of(within.back(), false));
  }
  for (int i = 0; i < 8; ++i) {
    operations.push_back(sum_of(between[static_cast<size_t>(i)], true, i));
    thread().submit(operations.back());
  }
  for (size_t i = operations.size(); i-- > 0;) {
    thread().wait(*operations[i]);
    EXPECT_TRUE(at::equal(between[i], within[i])) << i;
  }
}

// A comparison with a number that is none is false, and zeros of both signs are equal: what comes of them is a matter
// of order, which must be one on all ranks.
TEST(Allreduce, GreatestAndLeastHaveOnePatternOfBitsOnAllRanks) {
  const float strange = world().rank() % 2 == 0 ? std::numeric_limits<float>::quiet_NaN() : 1.0F;
  const float zero = world().rank() % 2 == 0 ? -0.0F : 0.0F;
  for (const MPI_Op op : {MPI_MAX, MPI_MIN}) {
    for (const bool several_hosts : {false, true}) {
      for (const int64_t elements : {1, 2, 3, 5, 1000, 70001}) {
        at::Tensor buffer = at::full({elements}, strange);
        buffer.slice(0, 0, elements, 2).fill_(zero);
        AllreduceOperation::Options how = options(buffer, op, several_hosts, 0);
        how.same_either_way = false;
        thread().run(std::make_shared<AllreduceOperation>(how));
        at::Tensor of_first = buffer.view(at::kInt).clone();
        MPI_Bcast(of_first.data_ptr(), static_cast<int>(elements), MPI_INT32_T, 0, world().impl().messages);
        EXPECT_TRUE(at::equal(buffer.view(at::kInt), of_first)) << elements << ' ' << several_hosts;
      }
    }
  }
}

}  // namespace
}  // namespace lockstep
