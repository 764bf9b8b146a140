// The all-reduce of messages as between hosts: other parts and other rounds than within one, and the same bits.
#include "comm/mpi/allreduce.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "mpi_main.h"
#include "world/world_impl.h"

namespace lockstep {
namespace {

std::shared_ptr<AllreduceOperation> sum_of(const at::Tensor& buffer, bool several_hosts, int tag = 0) {
  static const auto pool = std::make_shared<ScratchPool>();
  const World::Impl& impl = world().impl();
  return std::make_shared<AllreduceOperation>(AllreduceOperation::Options{.buffer = buffer,
                                                                          .type = MPI_FLOAT,
                                                                          .op = MPI_SUM,
                                                                          .comm = impl.messages,
                                                                          .rank = impl.rank,
                                                                          .size = impl.size,
                                                                          .tag = tag,
                                                                          .pool = pool,
                                                                          .several_hosts = several_hosts});
}

at::Tensor values(int64_t elements) {
  at::manual_seed(1000 * world().rank() + elements);
  return at::randn({elements});
}

CommThread& thread() { return *world().impl().comm_thread; }

TEST(Allreduce, BetweenHostsItHasTheBitsOfOneHost) {
  // Around a message's size between hosts, 65536 elements, and beyond what two of them exchange as a whole.
  for (const int64_t elements : {0, 1, 2, 1025, 65535, 65536, 65537, 200001, 4194304, 4194305}) {
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

}  // namespace
}  // namespace lockstep
