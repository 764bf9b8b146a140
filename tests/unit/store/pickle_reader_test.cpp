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
                   const std::vector<int64_t>& strides, const std::string& more = "",
                   const std::string& rebuild = "_rebuild_tensor_v2") {
  return global("torch._utils", rebuild) + "(" + storage_code + integer(offset) + tuple(shape) + tuple(strides) +
         "\x89" + global("collections", "OrderedDict") + ")R" + more + "tR";
}
std::string mark(const std::string& name) { return "}" + text(name) + "\x88s"; }
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

// A view that torch.save found negated or conjugated: the numbers are not yet what the tensor is.
TEST(PickleReader, NegatesAndConjugatesWhatIsMarkedSo) {
  const auto of = [](const std::string& type, int64_t count, const std::string& marks) {
    return read(plain_dict(text("w") + tensor(storage("0", count, type), 1, {2}, {1}, marks)))[0].second;
  };
  EXPECT_TRUE(at::equal(of("FloatStorage", 12, mark("neg")), at::tensor({-1.0f, -2.0f})));
  EXPECT_TRUE(at::equal(of("FloatStorage", 12, "}" + text("neg") + "\x89s"), at::tensor({1.0f, 2.0f})));
  EXPECT_TRUE(at::equal(of("FloatStorage", 12, "N"), at::tensor({1.0f, 2.0f})));
  const std::vector<c10::complex<float>> conjugated = {{2, -3}, {4, -5}};
  EXPECT_TRUE(at::equal(of("ComplexFloatStorage", 6, mark("conj")), at::tensor(conjugated)));
  EXPECT_FALSE(of("ComplexFloatStorage", 6, mark("conj")).is_conj());
}

TEST(PickleReader, RefusesMarksThatItDoesNotKnow) {
  const auto expect = [](const std::string& words, const std::string& type, const std::string& marks) {
    const int64_t count = type == "BoolStorage" ? 48 : 12;
    expect_malformed(words, plain_dict(text("w") + tensor(storage("0", count, type), 0, {0}, {1}, marks)));
  };
  expect("unknown mark sparse", "FloatStorage", mark("sparse"));
  expect("type Float has the mark conj", "FloatStorage", mark("conj"));
  expect("in place of a mark", "FloatStorage", "}" + text("neg") + "K\1s");
  expect("in place of a tensor's marks", "FloatStorage", "K\1");
  expect("another form", "FloatStorage", mark("neg") + mark("neg"));
}

// Types without a storage class: the storage is of bytes, and the tensor says its type.
TEST(PickleReader, ReadsTypesThatHaveNoStorageClass) {
  const std::string bytes =
      "(" + text("storage") + global("torch.storage", "UntypedStorage") + text("0") + text("cpu") + integer(48) + "tQ";
  const auto of = [&](const std::string& type, int64_t offset, const std::string& marks = "") {
    return plain_dict(text("w") + tensor(bytes, offset, {2}, {1}, global("torch", type) + marks, "_rebuild_tensor_v3"));
  };
  const at::Tensor words = read(of("uint16", 22))[0].second;  // of 11.0f, 0x41300000
  EXPECT_EQ(words.scalar_type(), at::kUInt16);
  EXPECT_EQ(static_cast<const uint16_t*>(words.const_data_ptr())[1], 0x4130);
  EXPECT_EQ(read(of("float8_e5m2", 0))[0].second.scalar_type(), at::kFloat8_e5m2);
  EXPECT_EQ(read(of("complex32", 0, mark("conj")))[0].second.scalar_type(), at::kComplexHalf);
  expect_malformed("beyond its storage", of("uint16", 23));
  expect_malformed("unknown type (torch.int3)", of("int3", 0));
}

TEST(PickleReader, RefusesBoolsOfOtherValues) {
  expect_malformed("neither 0 nor 1", plain_dict(text("w") + tensor(storage("0", 48, "BoolStorage"), 0, {1}, {1})));
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
  expect_malformed("os.system", "\x80\x02" + global("os", "system") + "(" + text("true") + "tR.");
  expect_malformed("builtins.eval", plain_dict(text("w") + global("builtins", "eval") + "(" + text("1") + "tR"));
}

TEST(PickleReader, SaysWhatIsNoTensor) {
  expect_malformed("entry epoch is no tensor", plain_dict(text("epoch") + integer(3)));
  expect_malformed("no text", plain_dict(integer(3) + integer(3)));
  expect_malformed("no dict", "\x80\x02K\1.");
  expect_malformed("more than a dict", "\x80\x02\x92.");
  expect_malformed("module or other object (Python class models.Net)", "\x80\x02" + global("models", "Net") + ")\x81.");
  expect_malformed("stack is empty", "\x80\x02\x81.");
  expect_malformed("epoch is no tensor, but its entry state_dict is a dict of tensors",
                   plain_dict(text("epoch") + integer(3) + text("state_dict") + "}" + text("w") +
                              tensor(storage("0", 12), 0, {1}, {1}) + "s"));
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
