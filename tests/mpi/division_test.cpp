// Ranks that divide the optimizer's work come to what each would have made alone.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "agreed.h"
#include "ddp/module_state.h"
#include "lockstep/audit.h"
#include "lockstep/weights.h"
#include "optim/division.h"
#include "optim/muon.h"

namespace lockstep {
namespace {

Division among_all_ranks() {
  return {.rank = world().rank(), .ranks = world().size(), .exchange = [](const std::vector<at::Tensor>& parts) {
            follow_each_rank(world(), parts);
          }};
}

// Of different cost, more than ranks, and one in another layout.
std::vector<at::Tensor> filters() {
  at::manual_seed(5);
  std::vector<at::Tensor> all;
  for (const auto& sizes :
       {std::vector<int64_t>{8, 4, 3, 3}, {4, 24, 3, 3}, {16, 3, 2, 2}, {64, 2, 1, 1}, {3, 3, 3, 3}}) {
    all.push_back(at::randn(sizes));
  }
  all[1] = all[1].contiguous(at::MemoryFormat::ChannelsLast);
  for (at::Tensor& filter : all) filter.requires_grad_();
  return all;
}

void give_gradients(const std::vector<at::Tensor>& filters, uint64_t step) {
  at::manual_seed(100 + step);
  for (size_t i = 0; i < filters.size(); ++i) {
    const at::Tensor gradient = at::randn(filters[i].sizes());
    // In the second step the third has none.
    filters[i].mutable_grad() =
        step == 1 && i == 2 ? at::Tensor() : at::empty_like(filters[i].detach()).copy_(gradient);
  }
}

TEST(Division, PartsComeFromTheirRanks) {
  std::vector<at::Tensor> parts;
  for (int rank = 0; rank < world().size(); ++rank) {
    parts.push_back(at::full({rank == 1 ? 0 : 3 + rank}, world().rank() == rank ? 10.0 + rank : -1.0));
  }
  follow_each_rank(world(), parts);
  for (int rank = 0; rank < world().size(); ++rank) {
    EXPECT_TRUE(at::equal(parts[static_cast<size_t>(rank)], at::full({rank == 1 ? 0 : 3 + rank}, 10.0 + rank))) << rank;
  }
}

TEST(Division, MuonHasTheSameBitsDividedAndUndivided) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const auto divided = filters();
    const auto alone = filters();
    Muon::Options options{.momentum = 0.6, .nesterov = true, .type = type};
    Muon by_itself(alone, options);
    options.division = among_all_ranks();
    Muon by_all(divided, options);
    for (uint64_t step = 0; step < 4; ++step) {
      give_gradients(divided, step);
      give_gradients(alone, step);
      by_all.step(0.1);
      by_itself.step(0.1);
      for (size_t i = 0; i < alone.size(); ++i) {
        EXPECT_TRUE(at::equal(divided[i], alone[i])) << type << ", step " << step << ", filter " << i;
        EXPECT_EQ(divided[i].strides(), alone[i].strides());
        EXPECT_EQ(by_all.buffer_of(divided[i]).defined(), by_itself.buffer_of(alone[i]).defined());
        if (by_all.buffer_of(divided[i]).defined()) {
          EXPECT_TRUE(at::equal(by_all.buffer_of(divided[i]), by_itself.buffer_of(alone[i])));
        }
      }
    }
  }
}

// What another rank sends is what counts: a rank whose own work went wrong is seen on all.
TEST(Division, EachUpdateIsMadeByOneRankOnly) {
  if (world().size() == 1) GTEST_SKIP() << "nothing to divide";
  const auto all = filters();
  Muon muon(all, {.momentum = 0.6, .division = among_all_ranks()});
  give_gradients(all, 0);
  // Other gradients on each rank, which training never has.
  for (const at::Tensor& filter : all) filter.grad().add_(0.1 * world().rank());
  muon.step(0.1);
  NamedTensors state;
  for (const at::Tensor& filter : all) state.emplace_back("filter", filter);
  EXPECT_THAT(world().all_gather(state_digest(state)), testing::Each(state_digest(state)));
}

}  // namespace
}  // namespace lockstep
