#include "store/checkpoint.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "../expect_error.h"
#include "lockstep/model.h"
#include "lockstep/net.h"
#include "store/digest.h"
#include "store/row_major.h"

namespace lockstep {
namespace {

using test::expect_error;
using ::testing::HasSubstr;

const std::string kState = R"({"step":782,"text":"\"lockstep.digest\":\"äöü","nested":{"lockstep.digest":"x"}})";

NamedTensors small() {
  return {{"model.weight", at::arange(6, at::kFloat).view({2, 3})},
          {"model.seen", at::ones({}, at::kLong)},
          {"optim.weight", at::zeros({2, 3})},
          {"empty", at::zeros({0, 3}, at::kHalf)}};
}

// The tutorial's network and its momentum.
NamedTensors tutorial() {
  NamedTensors tensors;
  int64_t numbers = 0;
  const NamedTensors model = state_dict(*make_net("sjnet"));
  for (const auto& [name, tensor] : model) {
    tensors.emplace_back("model." + name, tensor);
    numbers += tensor.numel();
  }
  EXPECT_EQ(numbers, 145'578);
  for (const auto& [name, tensor] : model) tensors.emplace_back("momentum." + name, at::randn_like(tensor));
  return tensors;
}

std::string problem_of(std::string_view bytes) {
  try {
    read_checkpoint(bytes);
  } catch (const Malformed& problem) {
    return problem.what();
  }
  return "none";
}

// The bytes with `from`, which is there once, changed to `to` of the same size.
std::string changed(std::string bytes, const std::string& from, const std::string& to) {
  EXPECT_EQ(from.size(), to.size());
  const std::size_t place = bytes.find(from);
  EXPECT_NE(place, bytes.npos) << from;
  return bytes.replace(place, from.size(), to);
}

// What a forger does: gives the header the digest of its bytes as they are now.
std::string sealed(std::string bytes) {
  const std::size_t digits = bytes.find(R"("lockstep.digest":")") + 19;
  uint64_t length = 0;
  std::copy_n(bytes.data(), 8, reinterpret_cast<char*>(&length));
  bytes.replace(digits, 32, 32, '0');
  return bytes.replace(digits, 32, digest_bytes({bytes.data(), 8 + length}));
}

TEST(Checkpoint, GivesBackTensorsAndState) {
  const Checkpoint read = read_checkpoint(checkpoint_bytes(small(), kState));
  EXPECT_EQ(read.state, kState);
  const char* order[] = {"model.seen", "model.weight", "optim.weight", "empty"};
  const NamedTensors written = small();
  ASSERT_EQ(read.tensors.size(), written.size());
  for (std::size_t i = 0; i < written.size(); ++i) {
    EXPECT_EQ(read.tensors[i].first, order[i]);
    const auto same = std::find_if(written.begin(), written.end(), [&](auto& item) { return item.first == order[i]; });
    EXPECT_TRUE(at::equal(read.tensors[i].second, same->second)) << order[i];
    EXPECT_EQ(read.tensors[i].second.scalar_type(), same->second.scalar_type()) << order[i];
  }
  EXPECT_EQ(read_checkpoint(checkpoint_bytes({}, "")).state, "");
}

TEST(Checkpoint, TheSameStateGivesTheSameBytes) {
  EXPECT_EQ(checkpoint_bytes(small(), kState), checkpoint_bytes(small(), kState));
}

TEST(Checkpoint, OfCopiesInItsOwnMemoryIsAHeaderAndOnePiece) {
  NamedTensors tensors = small();
  for (const int64_t elements : {3, 1'500'000}) {  // below and above what goes past the kernel's cache
    tensors.emplace_back("half" + std::to_string(elements), at::randn_like(at::ones({3})).to(at::kHalf));
    tensors.emplace_back("large" + std::to_string(elements), at::randn_like(at::ones({elements})));
    NamedTensors copies = checkpoint_memory(tensors);
    ASSERT_EQ(copies.size(), tensors.size());
    std::vector<std::string> digests;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      EXPECT_EQ(copies[i].first, tensors[i].first);
      const at::Tensor copy = row_major_copy(tensors[i].second, copies[i].second);
      EXPECT_TRUE(copy.is_same(copies[i].second)) << copies[i].first;
      digests.push_back(digest_bytes(data_of(copy)));
    }
    const SafetensorsPieces pieces = checkpoint_pieces(copies, kState, digests);
    EXPECT_EQ(pieces.joined(), checkpoint_bytes(tensors, kState));
    ASSERT_EQ(pieces.views().size(), 2u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(pieces.views()[1].data()) % 4096, 0u);
    EXPECT_EQ(pieces.header.size() % (elements > 3 ? 4096 : 8), 0u);
    EXPECT_EQ(problem_of(pieces.joined()), "none");
  }
}

TEST(Checkpoint, IsASafetensorsFileThatKnowsItself) {
  const Safetensors plain = read_safetensors(checkpoint_bytes(small(), kState));
  EXPECT_EQ(plain.tensors.size(), 4u);
  EXPECT_EQ(plain.metadata[0], (std::pair<std::string, std::string>("format", "pt")));
  EXPECT_TRUE(is_checkpoint(plain.metadata));
  EXPECT_FALSE(is_checkpoint({{"format", "pt"}, {"lockstep", "1"}}));
  EXPECT_EQ(problem_of(safetensors_bytes(small(), {})), "it has no lockstep.format");
}

TEST(Checkpoint, SaysWhichPartDoesNotVerify) {
  const std::string good = checkpoint_bytes(small(), kState);
  EXPECT_EQ(problem_of(good), "none");
  std::string bytes = good;
  bytes.back() ^= 1;
  EXPECT_EQ(problem_of(bytes), "the tensor optim.weight does not match its checksum");
  const std::string header = "its header does not match its checksum";
  EXPECT_EQ(problem_of(changed(good, "782", "783")), header);
  EXPECT_EQ(problem_of(changed(good, "optim.weight", "optim.weighs")), header);
  EXPECT_EQ(problem_of(changed(good, "[2,3]", "[3,2]")), header);
  EXPECT_EQ(problem_of(changed(good, R"("pt")", R"("PT")")), header);
  EXPECT_EQ(problem_of(changed(good, R"("F32")", R"("I32")")), header);
  EXPECT_EQ(problem_of(changed(good, "lockstep.state", "lockstep.stale")), header);
  // The same JSON, but spelt so that the digits are not where a reader looks for them.
  bytes = good;
  bytes.insert(bytes.find(R"("lockstep.digest":)") + 18, 8, ' ');
  bytes[0] = static_cast<char>(bytes[0] + 8);
  ASSERT_EQ(read_safetensors(bytes).metadata, read_safetensors(good).metadata);
  EXPECT_EQ(problem_of(bytes), header);
}

TEST(Checkpoint, RefusesALaterFormat) {
  const std::string later =
      changed(checkpoint_bytes(small(), kState), R"("lockstep.format":"1")", R"("lockstep.format":"2")");
  EXPECT_EQ(problem_of(sealed(later)), "it is of format 2, and this Lockstep reads format 1");
}

TEST(Checkpoint, RefusesAHeaderThatVerifiesAndLies) {
  const std::string good = checkpoint_bytes(small(), kState);
  EXPECT_EQ(sealed(good), good);
  EXPECT_EQ(problem_of(sealed(changed(good, "lockstep.state", "lockstep.stale"))), "it has no lockstep.state");
  EXPECT_EQ(problem_of(sealed(changed(good, "lockstep.tensors", "lockstep.tensorz"))), "it has no lockstep.tensors");
  EXPECT_EQ(problem_of(sealed(changed(good, R"(\"optim.weight\":)", R"(\"optim.weighs\":)"))),
            "it has no checksum for the tensor optim.weight");
  EXPECT_EQ(problem_of(sealed(changed(good, R"({\"empty\":)", R"([\"empty\":)"))),
            "it has not one checksum for each tensor");
  const Metadata more = {{"lockstep.format", "1"},
                         {"lockstep.state", ""},
                         {"lockstep.tensors", R"({"more":"x"})"},
                         {"lockstep.digest", std::string(32, '0')}};
  EXPECT_EQ(problem_of(sealed(safetensors_bytes({}, more))), "it has not one checksum for each tensor");
  const std::string digest = digest_bytes("");
  EXPECT_EQ(problem_of(sealed(changed(good, digest, std::string(digest.rbegin(), digest.rend())))),
            "the tensor empty does not match its checksum");
}

TEST(Checkpoint, TheDigestIsAtOnePlaceOnly) {
  const at::Tensor one = at::ones({1});
  EXPECT_NO_THROW(read_checkpoint(checkpoint_bytes({{"lockstep.digest", one}}, R"("lockstep.digest":")")));
  // A key that ends like the digest's, so that the mark of the digits is there twice.
  const Metadata ours = {{"lockstep.digest", std::string(32, '0')},
                         {"lockstep.format", "1"},
                         {"lockstep.state", ""},
                         {"lockstep.tensors", "{}"}};
  EXPECT_EQ(problem_of(sealed(safetensors_bytes({}, ours))), "none");
  Metadata twice = ours;
  twice.emplace_back("x\"lockstep.digest", std::string(32, '0'));
  EXPECT_EQ(problem_of(sealed(safetensors_bytes({}, twice))), "its header does not match its checksum");
  std::swap(twice.front(), twice.back());
  EXPECT_EQ(problem_of(sealed(safetensors_bytes({}, twice))), "its header does not match its checksum");
  twice.pop_back();
  EXPECT_EQ(problem_of(sealed(safetensors_bytes({}, twice))), "it has no lockstep.digest");
  expect_error(ExitCode::internal, {"UTF-8"}, [&] { checkpoint_bytes({}, "\xff"); });
  expect_error(ExitCode::internal, {"UTF-8"}, [&] { checkpoint_bytes({{"\xff", one}}, ""); });
  expect_error(ExitCode::internal, {"a twice"}, [&] { checkpoint_bytes({{"a", one}, {"a", one}}, ""); });
}

TEST(Checkpoint, EveryBitOfASmallOneCounts) {
  std::string bytes = checkpoint_bytes(small(), kState);
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ 1 << bit % 8);
    EXPECT_NE(problem_of(bytes), "none") << "bit " << bit;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ 1 << bit % 8);
  }
  EXPECT_EQ(problem_of(bytes), "none");
}

TEST(Checkpoint, NoTruncationOfTheTutorialsIsTakenForWhole) {
  const std::string bytes = checkpoint_bytes(tutorial(), kState);
  ASSERT_GT(bytes.size(), 2u * 4 * 145'578);
  for (std::size_t size = 0; size < bytes.size(); size += 512) {
    ASSERT_NE(problem_of({bytes.data(), size}), "none") << size;
  }
  ASSERT_NE(problem_of({bytes.data(), bytes.size() - 1}), "none");
  ASSERT_NE(problem_of(bytes + '\0'), "none");
  ASSERT_EQ(problem_of(bytes), "none");
}

TEST(Checkpoint, NoFlippedBitOfTheTutorialsIsTakenForWhole) {
  std::string bytes = checkpoint_bytes(tutorial(), kState);
  std::mt19937 random(5);
  for (int i = 0; i < 2000; ++i) {
    const std::size_t place = random() % (i % 4 == 0 ? 4096 : bytes.size());
    const char before = bytes[place];
    bytes[place] = static_cast<char>(before ^ 1 << random() % 8);
    ASSERT_NE(problem_of(bytes), "none") << place;
    bytes[place] = before;
  }
  ASSERT_EQ(problem_of(bytes), "none");
}

}  // namespace
}  // namespace lockstep
