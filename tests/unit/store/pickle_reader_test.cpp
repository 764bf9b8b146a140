#include "store/pickle_reader.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <caffe2/serialize/inline_container.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace lockstep {
namespace {

using namespace std::string_literals;
using ::testing::HasSubstr;

// --- pickles as Python writes them, opcode by opcode ---

std::string u32(std::size_t value) {
  std::string bytes;
  for (std::size_t i = 0; i < 4; ++i) bytes += static_cast<char>(value >> 8 * i);
  return bytes;
}
std::string text(const std::string& value) { return "X" + u32(value.size()) + value; }
std::string integer(int64_t value) { return "J" + u32(static_cast<std::size_t>(value)); }
std::string global(const std::string& module, const std::string& name) { return "c" + module + "\n" + name + "\n"; }
std::string tuple(const std::vector<int64_t>& values) {
  std::string code = "(";
  for (const int64_t value : values) code += integer(value);
  return code + "t";
}
std::string storage(const std::string& key, int64_t count, const std::string& type = "FloatStorage") {
  return "(" + text("storage") + global("torch", type) + text(key) + text("cpu") + integer(count) + "tQ";
}
std::string tensor(const std::string& storage_code, int64_t offset, const std::vector<int64_t>& shape,
                   const std::vector<int64_t>& strides) {
  return global("torch._utils", "_rebuild_tensor_v2") + "(" + storage_code + integer(offset) + tuple(shape) +
         tuple(strides) + "\x89" + global("collections", "OrderedDict") + ")RtR";
}
std::string plain_dict(const std::string& items) { return "\x80\x02}(" + items + "u."; }

// An archive with this pickle and the storage "0" of the numbers 0 to 11.
std::string archive(const std::string& pickle, const std::string& byteorder = "little") {
  std::string bytes;
  caffe2::serialize::PyTorchStreamWriter writer([&](const void* data, std::size_t size) {
    bytes.append(static_cast<const char*>(data), size);
    return size;
  });
  float numbers[12];
  for (int i = 0; i < 12; ++i) numbers[i] = static_cast<float>(i);
  writer.writeRecord("data.pkl", pickle.data(), pickle.size());
  writer.writeRecord("byteorder", byteorder.data(), byteorder.size());
  writer.writeRecord("data/0", numbers, sizeof(numbers));
  writer.writeEndOfFile();
  return bytes;
}

NamedTensors read(const std::string& pickle) {
  const std::string bytes = archive(pickle);
  return read_pickled_tensors(ZipReader(bytes));
}

void expect_malformed(const std::string& words, const std::string& pickle) {
  try {
    read(pickle);
    ADD_FAILURE() << "nothing was thrown, expected: " << words;
  } catch (const Malformed& problem) {
    EXPECT_THAT(problem.what(), HasSubstr(words));
  }
}

TEST(PickleReader, ReadsADict) {
  const auto tensors = read(plain_dict(text("w") + tensor(storage("0", 12), 0, {3, 4}, {4, 1})));
  ASSERT_EQ(tensors.size(), 1u);
  EXPECT_EQ(tensors[0].first, "w");
  EXPECT_EQ(tensors[0].second.sizes(), (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(tensors[0].second[2][3].item<float>(), 11);
}

// What `torch.save(net.state_dict(), path)` writes.
TEST(PickleReader, ReadsAnOrderedDictWithMetadata) {
  const auto tensors = read("\x80\x02" + global("collections", "OrderedDict") + "q\0)Rq\1("s + text("b") +
                            tensor(storage("0", 12), 2, {2}, {1}) + text("a") + tensor(storage("0", 12), 0, {}, {}) +
                            "u}" + text("_metadata") + "h\0)R("s + text("") + "}" + text("version") + "K\1su" + "sb.");
  ASSERT_EQ(tensors.size(), 2u);
  EXPECT_EQ(tensors[0].first, "b");
  EXPECT_TRUE(at::equal(tensors[0].second, at::tensor({2.0f, 3.0f})));
  EXPECT_EQ(tensors[1].second.dim(), 0);
}

TEST(PickleReader, ReadsParametersAndStridedViewsOfOneStorage) {
  const std::string parameter = global("torch._utils", "_rebuild_parameter") + "(" +
                                tensor(storage("0", 12), 0, {12}, {1}) + "\x88" + global("collections", "OrderedDict") +
                                ")RtR";
  const auto tensors =
      read(plain_dict(text("p") + parameter + text("t") + tensor(storage("0", 12), 0, {4, 3}, {1, 4})));
  ASSERT_EQ(tensors.size(), 2u);
  EXPECT_TRUE(at::equal(tensors[1].second, tensors[0].second.view({3, 4}).t()));
}

TEST(PickleReader, RefusesATensorBeyondItsStorage) {
  const auto expect = [](int64_t offset, std::vector<int64_t> shape, std::vector<int64_t> strides) {
    expect_malformed("beyond its storage", plain_dict(text("w") + tensor(storage("0", 12), offset, shape, strides)));
  };
  expect(0, {13}, {1});
  expect(1, {12}, {1});
  expect(12, {}, {});
  expect(0, {3, 4}, {4, 2});
  expect(0, {3}, {1, 1});
  expect(0, {0x7fffffff, 0x7fffffff, 0x7fffffff}, {0x7fffffff, 0x7fffffff, 0x7fffffff});
  expect(-1, {1}, {1});
  expect_malformed("negative", plain_dict(text("w") + tensor(storage("0", 12), 4, {2}, {-1})));
  expect_malformed("negative", plain_dict(text("w") + tensor(storage("0", 12), 0, {-2}, {1})));
}

TEST(PickleReader, RefusesAStorageThatIsNotThere) {
  expect_malformed("data/1 is missing", plain_dict(text("w") + tensor(storage("1", 12), 0, {1}, {1})));
  expect_malformed("48 bytes, expected 13", plain_dict(text("w") + tensor(storage("0", 13), 0, {1}, {1})));
  expect_malformed("expected -1", plain_dict(text("w") + tensor(storage("0", -1), 0, {1}, {1})));
  expect_malformed("unknown type", plain_dict(text("w") + tensor(storage("0", 12, "QuantStorage"), 0, {1}, {1})));
  expect_malformed("disagree", plain_dict(text("a") + tensor(storage("0", 12), 0, {1}, {1}) + text("b") +
                                          tensor(storage("0", 12, "IntStorage"), 0, {1}, {1})));
}

TEST(PickleReader, RunsNothing) {
  expect_malformed("os system", "\x80\x02" + global("os", "system") + "(" + text("true") + "tR.");
  expect_malformed("builtins eval", plain_dict(text("w") + global("builtins", "eval") + "(" + text("1") + "tR"));
}

TEST(PickleReader, SaysWhatIsNoTensor) {
  expect_malformed("entry epoch is no tensor", plain_dict(text("epoch") + integer(3)));
  expect_malformed("no text", plain_dict(integer(3) + integer(3)));
  expect_malformed("no dict", "\x80\x02K\1.");
  expect_malformed("more than a dict", "\x80\x02\x81.");
}

TEST(PickleReader, RefusesAPickleThatMakesNoSense) {
  for (const std::string& pickle : {""s,
                                    "\x80"s,
                                    "\x80\x02"s,
                                    "."s,
                                    "\x80\x02}"s,
                                    "u."s,
                                    "(u."s,
                                    "}s."s,
                                    "a."s,
                                    "e."s,
                                    "t."s,
                                    "h\7."s,
                                    "q\0."s,
                                    "R."s,
                                    "b."s,
                                    "Q."s,
                                    "}(K\1u."s,
                                    "}(."s,
                                    "X\xff\xff\xff\xff."s,
                                    "cabc"s,
                                    "c\n"s,
                                    "\x85."s,
                                    "\x8a\x09 12345678."s,
                                    "K"s,
                                    "}K\1K\2"s,
                                    ")}b."s}) {
    const std::string bytes = archive(pickle);
    EXPECT_THROW(read_pickled_tensors(ZipReader(bytes)), Malformed) << ::testing::PrintToString(pickle);
  }
}

TEST(PickleReader, SurvivesDeepNestingAndCycles) {
  expect_malformed("no dict", "\x80\x02)" + std::string(3'000'000, '\x85') + ".");
  expect_malformed("no dict", "\x80\x02]q\0h\0a."s);
}

TEST(PickleReader, RefusesBigEndianNumbers) {
  const std::string bytes = archive(plain_dict(""), "big");
  EXPECT_THROW(read_pickled_tensors(ZipReader(bytes)), Malformed);
}

}  // namespace
}  // namespace lockstep
