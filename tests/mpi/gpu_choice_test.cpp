// The decisions about GPUs over real ranks, with made-up GPUs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "agreed.h"
#include "comm/nccl/group.h"
#include "comm/nccl/store.h"
#include "ddp/tree_sum.h"
#include "world/gpus.h"
#include "world/world_impl.h"

#include <ATen/ATen.h>
#include <chrono>
#include <fstream>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

namespace lockstep {
namespace {

using ::testing::HasSubstr;

Gpu made_up(int index) {
  return {.name = "Made-up GPU",
          .uuid = fmt::format("GPU-{}", index),
          .pci = fmt::format("0000:{:02x}:00.0", index),
          .memory_bytes = 1 << 30};
}

VisibleGpus first(int count) {
  VisibleGpus sees;
  for (int i = 0; i < count; ++i) sees.gpus.push_back(made_up(i));
  if (count == 0) sees.problem = "no NVIDIA driver";
  return sees;
}

// give_gpus refuses once there is a process group, and these tests come in any order.
class GpuChoice : public testing::Test {
 protected:
  GpuChoice() { group_.swap(world().impl().process_group); }
  ~GpuChoice() override {
    world().impl().device = c10::kCPU;
    group_.swap(world().impl().process_group);
  }
  std::shared_ptr<void> group_;
};

TEST_F(GpuChoice, EachRankGetsTheGpuAtItsLocalRank) {
  give_gpus(world(), DeviceWish::automatic, first(world().size()));
  EXPECT_EQ(world().device(), c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(world().rank())));
  EXPECT_EQ(world().device_text(), fmt::format("cuda:{} (Made-up GPU)", world().rank()));
}

TEST_F(GpuChoice, OneVisibleForEachRankIsItsOwn) {
  VisibleGpus sees;
  sees.gpus = {made_up(world().rank())};
  give_gpus(world(), DeviceWish::cuda, sees);
  EXPECT_EQ(world().device(), c10::Device(c10::kCUDA, 0));
}

TEST_F(GpuChoice, WithoutGpusAutomaticIsTheCpuOnAllRanks) {
  give_gpus(world(), DeviceWish::automatic, first(0));
  EXPECT_TRUE(world().device().is_cpu());
  EXPECT_EQ(world().device_text(), "cpu");
}

TEST_F(GpuChoice, TooFewAreOneErrorOnAllRanks) {
  if (world().size() == 1) GTEST_SKIP() << "one rank needs one GPU";
  const std::string said = test::agreed_error(ExitCode::launch, world().size() - 1, [] {
    give_gpus(world(), DeviceWish::automatic, first(world().size() - 1));
  });
  EXPECT_THAT(said, HasSubstr(fmt::format("rank {} has no GPU of its own", world().size() - 1)));
  EXPECT_THAT(said, HasSubstr(world().host()));
  EXPECT_TRUE(world().device().is_cpu());
}

TEST_F(GpuChoice, ARankWithoutADriverIsOneErrorOnAllRanks) {
  const int last = world().size() - 1;
  const std::string said = test::agreed_error(ExitCode::launch, last, [&] {
    give_gpus(world(), DeviceWish::cuda, world().rank() == last ? first(0) : first(8));
  });
  EXPECT_THAT(said, HasSubstr(fmt::format("rank {} on {} sees no GPU", last, world().host())));
  EXPECT_THAT(said, HasSubstr("no NVIDIA driver"));
}

TEST_F(GpuChoice, RealGpusAreNotLookedForWhereTheCpuIsAskedFor) {
  world().choose_device(DeviceWish::cpu);
  EXPECT_TRUE(world().device().is_cpu());
}

TEST(Preflight, DifferentVersionsAreNamedOnAllRanks) {
  same_on_all_ranks(world(), "the versions", "NCCL 2.30.7", "the same everywhere");
  if (world().size() == 1) return;
  const int odd = world().size() - 1;
  const std::string said = test::agreed_error(ExitCode::launch, odd, [&] {
    same_on_all_ranks(world(), "the versions", world().rank() == odd ? "NCCL 2.28.9" : "NCCL 2.30.7",
                      "the same everywhere");
  });
  EXPECT_EQ(said, fmt::format("the versions of rank {} on {} differ from rank 0's: NCCL 2.28.9 and NCCL 2.30.7", odd,
                              world().host()));
}

// Sums rightly but on one rank.
class Miscounting : public c10d::Backend {
 public:
  Miscounting(c10::intrusive_ptr<c10d::Backend> inner, bool wrong)
      : Backend(inner->getRank(), inner->getSize()), inner_(std::move(inner)), wrong_(wrong) {}
  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor>& tensors,
                                           const c10d::AllreduceOptions& options) override {
    auto work = inner_->allreduce(tensors, options);
    work->wait();
    if (wrong_) tensors[0][7] += 1;
    return work;
  }

 private:
  c10::intrusive_ptr<c10d::Backend> inner_;
  bool wrong_;
};

TEST(Preflight, AWrongSumIsNamedOnAllRanks) {
  check_sum(world(), *world().process_group(), c10::kCPU);
  const int odd = world().size() - 1;
  auto group = c10::make_intrusive<c10d::ProcessGroup>(world().rank(), world().size());
  group->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::CUSTOM,
                    c10::make_intrusive<Miscounting>(world().process_group()->getBackend(c10::DeviceType::CPU),
                                                     world().rank() == odd));
  const std::string said = test::agreed_error(ExitCode::internal, odd, [&] { check_sum(world(), *group, c10::kCPU); });
  EXPECT_THAT(said, HasSubstr("came out wrong in 1 of 1024 elements"));
}

TEST(Store, AllRanksReadWhatOneWrote) {
  const StartedStore started = start_store(world(), "", 20);
  EXPECT_THAT(started.address, HasSubstr("lo 127.0.0.1 port "));
  EXPECT_THAT(world().all_gather(started.address), testing::Each(started.address));
  const int last = world().size() - 1;
  if (world().rank() == last) started.store->set("greeting", std::vector<uint8_t>{1, 2, 3});
  EXPECT_EQ(started.store->get("greeting"), (std::vector<uint8_t>{1, 2, 3}));
  world().barrier();
}

TEST(Store, ListensOnItsAddressOnly) {
  const StartedStore started = start_store(world(), "lo", 20);
  // The kernel's table of listening sockets: an address in hexadecimal, then the port.
  const int port = std::atoi(started.address.substr(started.address.rfind(' ') + 1).c_str());
  std::ifstream table("/proc/net/tcp");
  bool found = false;
  for (std::string line; std::getline(table, line);) {
    if (line.find(fmt::format(":{:04X} 00000000:0000 0A", port)) == std::string::npos) continue;
    found = true;
    EXPECT_THAT(line, HasSubstr(fmt::format("0100007F:{:04X}", port)));
  }
  EXPECT_TRUE(found) << started.address;
  world().barrier();
}

TEST(Store, AnInterfaceThatIsNotThereIsOneErrorOnAllRanks) {
  const std::string said = test::agreed_error(ExitCode::launch, 0, [] { start_store(world(), "nosuch0", 20); });
  EXPECT_THAT(said, HasSubstr("no address on interface nosuch0; its addresses: "));
  EXPECT_THAT(said, HasSubstr("127.0.0.1/8"));
}

TEST(Store, AKeyThatNeverComesIsAnErrorAfterTheDeadline) {
  const StartedStore started = start_store(world(), "", 0.5);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_THROW(started.store->get("never written"), c10::DistError);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
  world().barrier();
}

TEST(TreeSum, MessagesGiveTheBitsOfTheAllReduce) {
  if ((world().size() & (world().size() - 1)) != 0) GTEST_SKIP() << "needs a power of two of ranks";
  at::manual_seed(static_cast<uint64_t>(world().rank()) + 1);
  for (const int64_t count : {1, 1000, 300'001}) {
    at::Tensor by_messages = at::randn({count});
    at::Tensor by_allreduce = by_messages.clone();
    tree_sum_by_messages(world(), by_messages);
    tree_sum(world(), by_allreduce);
    EXPECT_TRUE(at::equal(by_messages, by_allreduce)) << count;
  }
}

}  // namespace
}  // namespace lockstep
