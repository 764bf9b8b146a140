#include "store/digest.h"

#include <ATen/ATen.h>

#include <bit>
#include <limits>
#include <set>

#include "../expect_error.h"
#include "lockstep/audit.h"
#include "store/row_major.h"

namespace lockstep {
namespace {

// The values of xxHash's own command, `printf TEXT | xxhsum -H2`.
TEST(Digest, IsTheXxh3OfTheBytes) {
  EXPECT_EQ(digest_bytes(""), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(digest_bytes("abc"), "06b05ab6733a618578af5f94892f3950");
}

TEST(Digest, EveryBitOfEveryTypeCounts) {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf, at::kLong, at::kInt, at::kByte}) {
    at::Tensor tensor = at::arange(7, at::kLong).to(type);
    std::set<std::string> digests = {digest_tensor(tensor)};
    auto* bytes = static_cast<unsigned char*>(tensor.data_ptr());
    for (size_t bit = 0; bit < 8 * tensor.nbytes(); ++bit) {
      bytes[bit / 8] = static_cast<unsigned char>(bytes[bit / 8] ^ (1u << (bit % 8)));
      EXPECT_TRUE(digests.insert(digest_tensor(tensor)).second) << type << ", bit " << bit;
      bytes[bit / 8] = static_cast<unsigned char>(bytes[bit / 8] ^ (1u << (bit % 8)));
    }
  }
  EXPECT_NE(digest_tensor(at::zeros({2}, at::kBool)), digest_tensor(at::ones({2}, at::kBool)));
}

TEST(Digest, TellsApartWhatComparesEqualAndWhatIsNotANumber) {
  EXPECT_NE(digest_tensor(at::tensor({0.0f})), digest_tensor(at::tensor({-0.0f})));
  const auto nan = [](uint32_t payload) {
    return digest_tensor(at::tensor({std::bit_cast<float>(0x7fc00000 + payload)}));
  };
  EXPECT_EQ(nan(0), nan(0));
  EXPECT_NE(nan(0), nan(1));
}

TEST(Digest, TypeAndShapeCountThoughTheBytesAreTheSame) {
  const at::Tensor zeros = at::zeros({2, 6});
  EXPECT_NE(digest_tensor(zeros), digest_tensor(zeros.reshape({6, 2})));
  EXPECT_NE(digest_tensor(zeros), digest_tensor(zeros.reshape({12})));
  EXPECT_NE(digest_tensor(zeros), digest_tensor(at::zeros({2, 6}, at::kInt)));
}

TEST(Digest, EmptyAndUndefinedTensorsHaveTheirOwn) {
  EXPECT_EQ(digest_tensor(at::empty({0, 3})), digest_tensor(at::empty({0, 3})));
  const std::set<std::string> all = {digest_tensor(at::Tensor()),      digest_tensor(at::empty({0})),
                                     digest_tensor(at::empty({0, 3})), digest_tensor(at::empty({0}, at::kLong)),
                                     digest_tensor(at::zeros({})),     digest_tensor(at::zeros({1}))};
  EXPECT_EQ(all.size(), 6u);
}

TEST(Digest, StridesDoNotCount) {
  const at::Tensor rows = at::arange(210, at::kFloat).reshape({2, 3, 5, 7});
  const std::string expected = digest_tensor(rows);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kDouble, at::kByte}) {
    const at::Tensor typed = rows.to(type);
    EXPECT_EQ(digest_tensor(typed.contiguous(at::MemoryFormat::ChannelsLast)), digest_tensor(typed)) << type;
  }
  EXPECT_EQ(digest_tensor(rows.transpose(1, 3).contiguous().transpose(1, 3)), expected);
  EXPECT_EQ(digest_tensor(at::cat({rows, rows}, 3).narrow(3, 7, 7)), expected);
  EXPECT_EQ(digest_tensor(rows.clone().requires_grad_()), expected);
  EXPECT_NE(digest_tensor(rows.transpose(1, 3)), expected);
}

TEST(RowMajorCopy, IsMadeInTheMemoryThatFits) {
  const at::Tensor rows = at::arange(210, at::kFloat).reshape({2, 3, 5, 7});
  for (const at::Tensor& values : {rows, rows.contiguous(at::MemoryFormat::ChannelsLast), rows.transpose(0, 1)}) {
    const at::Tensor memory = at::zeros(values.sizes());
    EXPECT_TRUE(row_major_copy(values, memory).is_same(memory));
    EXPECT_TRUE(at::equal(memory, values));
    for (const at::Tensor& other : {at::zeros({210}), at::zeros(values.sizes(), at::kDouble), values}) {
      const at::Tensor copy = row_major_copy(values, other.is_same(values) ? at::Tensor() : other);
      EXPECT_TRUE(at::equal(copy, values) && copy.is_contiguous() && !copy.is_alias_of(values));
      EXPECT_FALSE(copy.is_same(other));
    }
  }
}

TEST(Digest, PendingConjugationIsCarriedOut) {
  const at::Tensor number = at::complex(at::ones({3}), at::ones({3}));
  EXPECT_EQ(digest_tensor(number.conj()), digest_tensor(at::complex(at::ones({3}), -at::ones({3}))));
}

TEST(Digest, RefusesTensorsThatAreNotDense) {
  test::expect_error(ExitCode::internal, {"Sparse"}, [] { digest_tensor(at::ones({2}).to_sparse()); });
}

TEST(StateDigest, CoversNamesOrderAndValues) {
  const at::Tensor one = at::ones({2});
  const at::Tensor two = one + 1;
  const std::string digest = state_digest({{"a", one}, {"b", two}});
  EXPECT_EQ(digest, state_digest({{"a", one.clone()}, {"b", two.clone()}}));
  EXPECT_EQ(digest.size(), 32u);
  const std::set<std::string> all = {digest,
                                     state_digest({{"a", two}, {"b", one}}),
                                     state_digest({{"b", two}, {"a", one}}),
                                     state_digest({{"a", one}, {"c", two}}),
                                     state_digest({{"a", one}}),
                                     state_digest({})};
  EXPECT_EQ(all.size(), 6u);
}

}  // namespace
}  // namespace lockstep
