// Every operation of the backend against what arithmetic says, over types, odd sizes and strides. Values are small
// whole numbers, so sums are exact in every type.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mpi.h>

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "mpi_main.h"

namespace lockstep {
namespace {

constexpr std::array kTypes = {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf,         at::kInt,          at::kLong,
                               at::kByte,  at::kChar,   at::kShort,    at::kComplexFloat, at::kComplexDouble};

// Small values that differ by element, rank and salt.
at::Tensor values(int rank, int64_t elements, at::ScalarType type, int salt = 0) {
  return at::remainder(at::arange(elements, at::kLong) * (rank + 1) + salt, 7).to(type);
}

at::Tensor expected_sum(int64_t elements, at::ScalarType type) {
  at::Tensor sum = values(0, elements, at::kLong);
  for (int rank = 1; rank < world().size(); ++rank) sum += values(rank, elements, at::kLong);
  return sum.to(type);
}

class Backend : public testing::TestWithParam<at::ScalarType> {
 protected:
  c10d::ProcessGroup& group() { return *world().process_group(); }
  at::ScalarType type() { return GetParam(); }
};

TEST_P(Backend, AllReduceSums) {
  for (const int64_t elements : {1, 2, 7, 64, 1001, 70001}) {
    std::vector<at::Tensor> tensors = {values(world().rank(), elements, type())};
    group().allreduce(tensors)->wait();
    EXPECT_TRUE(at::equal(tensors[0], expected_sum(elements, type()))) << elements;
  }
}

TEST_P(Backend, AllReduceTakesMinimumAndMaximum) {
  for (const auto op : {c10d::ReduceOp::MIN, c10d::ReduceOp::MAX}) {
    if (at::isComplexType(type())) GTEST_SKIP() << "complex numbers have no order";
    std::vector<at::Tensor> tensors = {at::full({5}, world().rank() + 1, type())};
    c10d::AllreduceOptions options;
    options.reduceOp = op;
    group().allreduce(tensors, options)->wait();
    const int expected = op == c10d::ReduceOp::MIN ? 1 : world().size();
    EXPECT_TRUE(at::equal(tensors[0], at::full({5}, expected, type())));
  }
}

TEST_P(Backend, BroadcastReachesAllFromAnyRoot) {
  for (int root = 0; root < world().size(); ++root) {
    std::vector<at::Tensor> tensors = {values(world().rank(), 33, type(), root)};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    group().broadcast(tensors, options)->wait();
    EXPECT_TRUE(at::equal(tensors[0], values(root, 33, type(), root)));
  }
}

TEST_P(Backend, AllGatherKeepsRankOrder) {
  std::vector<at::Tensor> inputs = {values(world().rank(), 13, type())};
  std::vector<std::vector<at::Tensor>> outputs(1);
  for (int rank = 0; rank < world().size(); ++rank) outputs[0].push_back(at::empty({13}, type()));
  group().allgather(outputs, inputs)->wait();
  for (int rank = 0; rank < world().size(); ++rank) {
    EXPECT_TRUE(at::equal(outputs[0][static_cast<size_t>(rank)], values(rank, 13, type())));
  }
  at::Tensor flat = at::empty({13 * world().size()}, type());
  group().all_gather_single(flat, inputs[0])->wait();
  EXPECT_TRUE(at::equal(flat, at::cat(outputs[0])));
}

TEST_P(Backend, ReduceScatterGivesEachRankItsPart) {
  const int64_t part = 11;
  at::Tensor input = values(world().rank(), part * world().size(), type());
  const at::Tensor expected = expected_sum(part * world().size(), type()).narrow(0, part * world().rank(), part);
  at::Tensor output = at::empty({part}, type());
  group().reduce_scatter_single(output, input)->wait();
  EXPECT_TRUE(at::equal(output, expected));

  std::vector<at::Tensor> outputs = {at::empty({part}, type())};
  std::vector<std::vector<at::Tensor>> inputs = {input.chunk(world().size())};
  group().reduce_scatter(outputs, inputs)->wait();
  EXPECT_TRUE(at::equal(outputs[0], expected));
}

TEST_P(Backend, SendAndReceiveGoRoundTheRing) {
  const int next = (world().rank() + 1) % world().size();
  const int previous = (world().rank() + world().size() - 1) % world().size();
  // 100,000 elements are above any eager limit: with blocking sends this ring would stand still.
  std::vector<at::Tensor> out = {values(world().rank(), 100'000, type())};
  std::vector<at::Tensor> in = {at::empty({100'000}, type())};
  const auto sent = group().send(out, next, /*tag=*/3);
  const auto received = group().recv(in, previous, /*tag=*/3);
  received->wait();
  sent->wait();
  EXPECT_TRUE(at::equal(in[0], values(previous, 100'000, type())));
}

INSTANTIATE_TEST_SUITE_P(Types, Backend, testing::ValuesIn(kTypes),
                         [](const auto& test) { return std::string(c10::toString(test.param)); });

TEST(MpiBackend, AverageIsTheSumDivided) {
  std::vector<at::Tensor> tensors = {at::full({4}, 6.0f)};
  c10d::AllreduceOptions options;
  options.reduceOp = c10d::ReduceOp::AVG;
  world().process_group()->allreduce(tensors, options)->wait();
  EXPECT_TRUE(at::equal(tensors[0], at::full({4}, 6.0f)));
}

TEST(MpiBackend, StridedTensorsAreReducedWhereTheyAre) {
  at::Tensor whole = at::zeros({6, 8});
  at::Tensor column = whole.select(1, 3);  // every eighth element
  column.fill_(1);
  std::vector<at::Tensor> tensors = {column};
  world().process_group()->allreduce(tensors)->wait();
  EXPECT_TRUE(at::equal(whole.select(1, 3), at::full({6}, static_cast<float>(world().size()))));
  EXPECT_EQ(whole.sum().item<float>(), 6.0f * static_cast<float>(world().size()));

  tensors = {at::ones({2, 3, 4, 4}).contiguous(at::MemoryFormat::ChannelsLast)};
  world().process_group()->allreduce(tensors)->wait();
  EXPECT_TRUE(at::equal(tensors[0], at::full({2, 3, 4, 4}, static_cast<float>(world().size()))));
}

TEST(MpiBackend, Bfloat16AddsInFloat32AndRoundsToNearestEven) {
  if (world().size() != 2) return;  // with two ranks there is one addition, whose rounding can be said
  // 1 + 2^-8 lies halfway between two bfloat16 values: it goes to the even one, 1; 1 + 3 · 2^-8 goes up.
  std::vector<at::Tensor> tensors = {
      (world().rank() == 0 ? at::tensor({1.0f, 1.0f}) : at::tensor({0x1p-8f, 0x3p-8f})).to(at::kBFloat16)};
  world().process_group()->allreduce(tensors)->wait();
  EXPECT_TRUE(at::equal(tensors[0].to(at::kFloat), at::tensor({1.0f, 1.0f + 0x1p-6f})));
}

TEST(MpiBackend, EqualsPlainMpiBitForBitWhereThereIsOneOrderToAddIn) {
  at::manual_seed(static_cast<uint64_t>(world().rank()) + 1);
  at::Tensor tensor = at::randn({10'007});
  at::Tensor plain = tensor.clone();
  std::vector<at::Tensor> tensors = {tensor};
  world().process_group()->allreduce(tensors)->wait();
  MPI_Allreduce(MPI_IN_PLACE, plain.data_ptr(), 10'007, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  if (world().size() <= 2) {
    EXPECT_TRUE(at::equal(tensor, plain));
  } else {  // there is more than one order to add in
    EXPECT_TRUE(at::allclose(tensor, plain, 1e-5, 1e-6));
  }
}

TEST(MpiBackend, BarrierReturns) { world().process_group()->barrier()->wait(); }

TEST(MpiBackend, Float16AddsInFloat32AndRoundsToNearestEven) {
  if (world().size() != 2) return;
  // 1 + 2^-11 lies halfway between two float16 values: it goes to the even one, 1; 1 + 3 · 2^-11 goes up.
  std::vector<at::Tensor> tensors = {
      (world().rank() == 0 ? at::tensor({1.0f, 1.0f}) : at::tensor({0x1p-11f, 0x3p-11f})).to(at::kHalf)};
  world().process_group()->allreduce(tensors)->wait();
  EXPECT_TRUE(at::equal(tensors[0].to(at::kFloat), at::tensor({1.0f, 1.0f + 0x1p-9f})));
}

std::string refusal(const at::Tensor& tensor, c10d::ReduceOp::RedOpType op = c10d::ReduceOp::SUM) {
  std::vector<at::Tensor> tensors = {tensor};
  c10d::AllreduceOptions options;
  options.reduceOp = op;
  try {
    world().process_group()->allreduce(tensors, options)->wait();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "no refusal";
}

TEST(MpiBackend, RefusesByNameWhatItCannotAddUp) {
  EXPECT_THAT(refusal(at::zeros({2}, at::kBool)), testing::HasSubstr("bool"));
  EXPECT_THAT(refusal(at::zeros({2}).to(at::kFloat8_e4m3fn)), testing::HasSubstr("Float8_e4m3fn"));
  EXPECT_THAT(refusal(at::zeros({2}, at::kComplexFloat), c10d::ReduceOp::MAX),
              testing::AllOf(testing::HasSubstr("'max'"), testing::HasSubstr("complex64")));
  EXPECT_THAT(refusal(at::eye(3).to_sparse()), testing::HasSubstr("Sparse"));
  EXPECT_THAT(refusal(at::ones({1, 3}).expand({4, 3})), testing::HasSubstr("expand"));
}

TEST(MpiBackend, MovesTypesThatItCannotAddUp) {
  for (const auto type : {at::kBool, at::kFloat8_e4m3fn, at::kUInt16}) {
    std::vector<at::Tensor> tensors = {at::full({5}, world().rank() == 0 ? 1 : 0, at::kFloat).to(type)};
    world().process_group()->broadcast(tensors)->wait();
    EXPECT_TRUE(at::equal(tensors[0].to(at::kFloat), at::ones({5}))) << c10::toString(type);
  }
}

// Their memory holds other values than they mean. Asked of the backend: c10d's dispatcher, which a process group calls
// it through, hands on plain copies of such views.
TEST(MpiBackend, LazilyNegatedAndConjugatedViewsAreWhatTheyMean) {
  const auto backend = world().process_group()->getBackend(c10::DeviceType::CPU);
  const int last = world().size() - 1;
  at::Tensor number = at::full({3}, static_cast<float>(world().rank() + 1));
  std::vector<at::Tensor> tensors = {world().rank() == last ? at::_neg_view(number) : number};
  backend->allreduce(tensors)->wait();
  const float sum = static_cast<float>(last * (last + 1)) / 2 - static_cast<float>(last + 1);
  if (!test::alone()) {
    EXPECT_TRUE(at::equal(tensors[0].resolve_neg(), at::full({3}, sum))) << tensors[0];
  }

  const at::Tensor complex = at::complex(at::ones({2}), at::full({2}, 2.0F));
  tensors = {world().rank() == 0 ? complex.conj() : at::zeros({2}, at::kComplexFloat)};
  backend->broadcast(tensors)->wait();
  EXPECT_TRUE(at::equal(at::imag(tensors[0].resolve_conj()), at::full({2}, -2.0F)));
}

TEST(MpiBackend, TheFutureOfAWorkHoldsTheTensors) {
  std::vector<at::Tensor> tensors = {at::ones({3})};
  const auto work = world().process_group()->allreduce(tensors);
  const auto future = work->getFuture();
  future->wait();
  EXPECT_TRUE(at::equal(future->value().toTensorVector()[0], at::full({3}, static_cast<float>(world().size()))));
}

}  // namespace
}  // namespace lockstep
