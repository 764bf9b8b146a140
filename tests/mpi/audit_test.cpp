#include "lockstep/audit.h"

#include <ATen/ATen.h>

#include <bit>

#include "agreed.h"
#include "ddp/audit_digests.h"
#include "store/digest.h"

namespace lockstep {
namespace {

using test::agreed_error;
using test::alone;
using test::last;
using testing::HasSubstr;

NamedTensors state() {
  return {{"0.weight", at::arange(12, at::kFloat).reshape({3, 4})},
          {"0.bias", at::zeros({3}, at::kBFloat16)},
          {"1.weight", at::ones({5})}};
}

std::string audit_message(int reporter, const NamedTensors& tensors) {
  return agreed_error(ExitCode::diverged, reporter, [&] { audit_replicas(world(), tensors, 120); });
}

// Which side is right while one rank of the job is odd and it is not rank 0.
std::string right_side() {
  switch (world().size()) {
    case 2:
      return "what rank 0 has is taken as right";
    case 3:
      return "what ranks 0, 1 have is taken as right";
    default:
      return "what ranks 0, 1, 2 have is taken as right";
  }
}

void flip_lowest_bit(at::Tensor& tensor) {
  auto* byte = static_cast<unsigned char*>(tensor.data_ptr());
  *byte = static_cast<unsigned char>(*byte ^ 1u);
}

TEST(Audit, EqualReplicasHaveOneDigestOnAllRanks) {
  const std::string digest = audit_replicas(world(), state(), 0);
  EXPECT_EQ(digest, state_digest(state()));
  EXPECT_THAT(world().all_gather(digest), testing::Each(digest));
  EXPECT_EQ(audit_replicas(world(), {}, 0), state_digest({}));
}

TEST(Audit, DigestsThatOneRankHasAlreadyAreAsGoodAsTensors) {
  NamedDigests known;
  for (const auto& [name, tensor] : state()) known.emplace_back(name, digest_tensor(tensor));
  const auto audit = [&] {
    return world().rank() == last() ? audit_digests(
                                          world(), [&] { return known; }, 7)
                                    : audit_replicas(world(), state(), 7);
  };
  EXPECT_EQ(audit(), state_digest(state()));
  if (alone()) return;
  known[1].second = known[2].second;
  EXPECT_THAT(agreed_error(ExitCode::diverged, last(), audit), HasSubstr("0.bias"));
}

TEST(Audit, StridesMayDiffer) {
  NamedTensors mine = state();
  if (world().rank() == last()) mine[0].second = mine[0].second.t().contiguous().t();
  EXPECT_EQ(audit_replicas(world(), mine, 0), state_digest(state()));
}

TEST(Audit, OneFlippedBitIsNamedWithTensorRankAndHost) {
  if (alone()) return;
  NamedTensors mine = state();
  if (world().rank() == last()) flip_lowest_bit(mine[1].second);
  EXPECT_EQ(audit_message(last(), mine), fmt::format("replicas differ after step 120: 0.bias on rank {} (host {}); {}",
                                                     last(), world().host(), right_side()));
}

TEST(Audit, ASignOfZeroIsADifference) {
  if (alone()) return;
  NamedTensors mine = state();
  if (world().rank() == last()) mine[1].second.neg_();
  EXPECT_THAT(audit_message(last(), mine), HasSubstr(fmt::format("0.bias on rank {} ", last())));
}

TEST(Audit, APayloadOfNanIsADifferenceAndTheSameNanIsNone) {
  NamedTensors mine = state();
  mine[2].second.fill_(std::bit_cast<float>(0x7fc00000u));
  EXPECT_EQ(audit_replicas(world(), mine, 0), state_digest(mine));
  if (alone()) return;
  if (world().rank() == last()) flip_lowest_bit(mine[2].second);
  EXPECT_THAT(audit_message(last(), mine), HasSubstr(fmt::format("1.weight on rank {} ", last())));
}

TEST(Audit, TheFirstTensorIsNamedAndTheOthersCounted) {
  if (alone()) return;
  NamedTensors mine = state();
  if (world().rank() == last()) {
    flip_lowest_bit(mine[0].second);
    flip_lowest_bit(mine[2].second);
  }
  EXPECT_THAT(audit_message(last(), mine),
              HasSubstr(fmt::format("0.weight on rank {} (host {}), and 1 other tensor; ", last(), world().host())));
  if (world().rank() == last()) flip_lowest_bit(mine[1].second);
  EXPECT_THAT(audit_message(last(), mine), HasSubstr(", and 2 other tensors; "));
}

TEST(Audit, WithThreeRanksTheOddOneMayBeRankZero) {
  if (world().size() < 3) return;
  NamedTensors mine = state();
  if (world().rank() == 0) flip_lowest_bit(mine[1].second);
  EXPECT_EQ(audit_message(0, mine),
            fmt::format("replicas differ after step 120: 0.bias on rank 0 (host {}); what {} have is taken as right",
                        world().host(), world().size() == 3 ? "ranks 1, 2" : "ranks 1, 2, 3"));
}

TEST(Audit, ATieGoesToTheSideOfRankZero) {
  if (world().size() % 2 != 0) return;
  NamedTensors mine = state();
  if (world().rank() % 2 == 1) flip_lowest_bit(mine[1].second);
  EXPECT_THAT(audit_message(1, mine),
              world().size() == 2 ? HasSubstr("0.bias on rank 1 ") : HasSubstr("0.bias on ranks 1, 3 "));
}

TEST(Audit, WhenAllDifferRankZeroIsTakenAsRight) {
  if (alone()) return;
  NamedTensors mine = state();
  mine[2].second.fill_(world().rank());
  EXPECT_THAT(audit_message(1, mine), HasSubstr("what rank 0 has is taken as right"));
}

TEST(Audit, AMissingTensorIsSaidToBeMissing) {
  if (alone()) return;
  NamedTensors mine = state();
  if (world().rank() == last()) mine.erase(mine.begin() + 1);
  EXPECT_EQ(audit_message(last(), mine),
            fmt::format("replicas differ after step 120: 0.bias is missing on rank {} (host {}); {}", last(),
                        world().host(), right_side()));
  mine = state();
  if (world().rank() == last()) mine.clear();
  EXPECT_THAT(audit_message(last(), mine), HasSubstr("0.weight is missing on rank"));
}

TEST(Audit, AnAbsentTensorCountsAmongTheOthers) {
  if (alone()) return;
  NamedTensors mine = state();
  if (world().rank() == last()) {
    flip_lowest_bit(mine[0].second);
    mine.pop_back();
  }
  EXPECT_THAT(audit_message(last(), mine), HasSubstr(", and 1 other tensor; "));
}

TEST(Audit, NamesThatHoldZeroBytesStillEndInOneErrorOnAll) {
  if (alone()) return;
  // Such a name parts in two, and the tensor's digest falls off the gathered table.
  NamedTensors mine = {{std::string("a\0b", 3), at::full({1}, world().rank() == last())}};
  EXPECT_THAT(audit_message(last(), mine), HasSubstr(fmt::format("the digest of the digests on rank {} ", last())));
}

TEST(Audit, TensorsTooManyOrInAnotherOrderAreTold) {
  if (alone()) return;
  NamedTensors mine = state();
  if (world().rank() == last()) mine.emplace_back("2.weight", at::ones({1}));
  EXPECT_THAT(audit_message(last(), mine),
              HasSubstr(fmt::format("one tensor too many, 2.weight, on rank {} ", last())));
  mine = state();
  if (world().rank() == last()) std::swap(mine[0], mine[1]);
  EXPECT_THAT(audit_message(last(), mine),
              HasSubstr(fmt::format("0.bias in place of 0.weight on rank {} (host {}); ", last(), world().host())));
}

TEST(Audit, AnotherShapeOrTypeIsADifference) {
  if (alone()) return;
  NamedTensors mine = state();
  if (world().rank() == last()) mine[2].second = at::ones({5, 1});
  EXPECT_THAT(audit_message(last(), mine), HasSubstr("1.weight on rank"));
  mine = state();
  if (world().rank() == last()) mine[1].second = at::zeros({3}, at::kHalf);
  EXPECT_THAT(audit_message(last(), mine), HasSubstr("0.bias on rank"));
}

TEST(Audit, ARankThatCannotReadItsTensorsKeepsNoOneWaiting) {
  NamedTensors mine = state();
  if (world().rank() == last()) mine[1].second = at::ones({3}).to_sparse();
  const std::string message = agreed_error(ExitCode::internal, last(), [&] { audit_replicas(world(), mine, 120); });
  EXPECT_THAT(message, HasSubstr("Sparse"));
  EXPECT_EQ(audit_replicas(world(), state(), 121), state_digest(state()));  // and the job is still in step
}

}  // namespace
}  // namespace lockstep
