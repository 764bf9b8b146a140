#include "store/safetensors.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/complex.h>
#include <ATen/ops/imag.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/zeros.h>
#include <c10/core/CPUAllocator.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "../expect_error.h"
#include "store/checkpoint.h"

namespace lockstep {
namespace {

using namespace std::string_literals;
using test::expect_error;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Any bits, NaNs and all.
at::Tensor some_bits(at::IntArrayRef shape, c10::ScalarType type) {
  if (type == at::kBool) return at::randint(2, shape, at::kByte).to(at::kBool);
  std::vector<int64_t> bytes(shape.begin(), shape.end());
  bytes.push_back(static_cast<int64_t>(c10::elementSize(type)));
  return at::randint(256, bytes, at::kByte).view(type).view(shape);
}

constexpr c10::ScalarType kAllTypes[] = {at::kBool,
                                         at::kByte,
                                         at::kChar,
                                         at::kFloat8_e5m2,
                                         at::kFloat8_e4m3fn,
                                         at::kFloat8_e5m2fnuz,
                                         at::kFloat8_e4m3fnuz,
                                         at::kUInt16,
                                         at::kShort,
                                         at::kHalf,
                                         at::kBFloat16,
                                         at::kInt,
                                         at::kUInt32,
                                         at::kFloat,
                                         at::kLong,
                                         at::kUInt64,
                                         at::kDouble,
                                         at::kComplexFloat,
                                         at::kFloat8_e8m0fnu};

void expect_same(const NamedTensors& read, NamedTensors written) {
  std::stable_sort(written.begin(), written.end(),
                   [](auto& a, auto& b) { return a.second.element_size() > b.second.element_size(); });
  ASSERT_EQ(read.size(), written.size());
  for (std::size_t i = 0; i < read.size(); ++i) {
    const auto& [name, tensor] = written[i];
    EXPECT_EQ(read[i].first, name);
    EXPECT_EQ(read[i].second.scalar_type(), tensor.scalar_type()) << name;
    EXPECT_EQ(read[i].second.sizes(), tensor.sizes()) << name;
    EXPECT_EQ(data_of(read[i].second), data_of(tensor.contiguous())) << name;
  }
}

std::string file_of(const std::string& header, const std::string& data = "") {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

std::string entry(const std::string& name, const std::string& type, const std::string& shape, int begin, int end) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", name, type, shape, begin, end);
}

TEST(Safetensors, GivesBackTheBitsOfEveryTypeAndShape) {
  NamedTensors tensors;
  for (const c10::ScalarType type : kAllTypes) {
    for (const auto& shape :
         std::vector<std::vector<int64_t>>{{}, {1}, {7}, {0}, {3, 0, 5}, {2, 3, 5, 7}, {1, 1, 1, 1, 1, 3}}) {
      tensors.emplace_back(fmt::format("{} {}", c10::toString(type), tensors.size()), some_bits(shape, type));
    }
  }
  const Metadata metadata = {{"format", "pt"}, {"empty", ""}, {"", "no name"}, {"ünd \"quoted\" \\ \n", "日本\t\x01"}};
  const Safetensors read = read_safetensors(safetensors_bytes(tensors, metadata));
  expect_same(read.tensors, tensors);
  EXPECT_EQ(read.metadata, metadata);
}

TEST(Safetensors, HoldsNothingAtAll) {
  const Safetensors read = read_safetensors(safetensors_bytes({}, {}));
  EXPECT_TRUE(read.tensors.empty());
  EXPECT_TRUE(read.metadata.empty());
  EXPECT_TRUE(read_safetensors(file_of("{}")).tensors.empty());
}

TEST(Safetensors, AlignsEveryTensorToItsElements) {
  const NamedTensors tensors = {{"a", at::ones({3}, at::kByte)}, {"b", at::ones({3}, at::kHalf)},
                                {"c", at::ones({3}, at::kInt)},  {"d", at::ones({3}, at::kDouble)},
                                {"e", at::ones({}, at::kBool)},  {"f", at::ones({1}, at::kFloat)}};
  for (int blanks = 0; blanks < 9; ++blanks) {
    const std::string bytes = safetensors_bytes(tensors, {{"x", std::string(static_cast<std::size_t>(blanks), ' ')}});
    const SafetensorsView view = view_safetensors(bytes);
    EXPECT_EQ(view.header.size() % 8, 0u);
    std::string names;
    for (const TensorView& tensor : view.tensors) {
      EXPECT_EQ(static_cast<std::size_t>(tensor.data.data() - bytes.data()) % c10::elementSize(tensor.type), 0u);
      names += tensor.name;
    }
    EXPECT_EQ(names, "dcfbae");
  }
}

TEST(Safetensors, WritesTheElementsOfViewsAndOfPendingConjugation) {
  const at::Tensor large = at::arange(30, at::kFloat).view({5, 6});
  const at::Tensor number = at::complex(at::ones({2}), at::ones({2}));
  const NamedTensors tensors = {
      {"conj", number.conj()},   {"imaginary", at::imag(number.conj())},  {"column", large.narrow(1, 2, 1)},
      {"transposed", large.t()}, {"expanded", at::ones({1}).expand({4})}, {"gradient", at::ones({2}).requires_grad_()}};
  const Safetensors read = read_safetensors(safetensors_bytes(tensors, {}));
  NamedTensors written = tensors;
  for (auto& [name, tensor] : written) tensor = tensor.detach().resolve_conj().resolve_neg();
  expect_same(read.tensors, written);
  EXPECT_FALSE(read.tensors.back().second.requires_grad());
}

TEST(Safetensors, TensorsReadOutliveTheBytes) {
  auto bytes = std::make_unique<std::string>(safetensors_bytes({{"a", at::arange(100)}}, {}));
  const Safetensors read = read_safetensors(*bytes);
  std::fill(bytes->begin(), bytes->end(), 'x');
  bytes.reset();
  EXPECT_EQ(read.tensors[0].second.sum().item<int64_t>(), 4950);
}

TEST(Safetensors, TheSameTensorsGiveTheSameBytes) {
  const NamedTensors tensors = {{"b", at::ones({3})}, {"a", at::ones({3})}, {"c", at::ones({3}, at::kHalf)}};
  EXPECT_EQ(safetensors_bytes(tensors, {{"k", "v"}}), safetensors_bytes(tensors, {{"k", "v"}}));
}

TEST(Safetensors, ReadsHeadersThatOthersWrite) {
  const Safetensors read = read_safetensors(file_of(
      " {"s.substr(1) + " \n\t" + entry("last", "U8", "[2]", 4, 6) + " , \"first\" : { \"data_offsets\":[0 , 4], " +
          R"("shape" : [ ], "dtype":"F32"} ,"__metadata__":{"\u006b":"\ud83d\ude00"}, )" +
          entry("none", "I64", "[0,9223372036854775]", 4, 4) + "}    ",
      "\0\0\x80\x3f\x07\x08"s));
  ASSERT_EQ(read.tensors.size(), 3u);
  EXPECT_EQ(read.tensors[0].first, "first");
  EXPECT_EQ(read.tensors[0].second.item<float>(), 1);
  EXPECT_EQ(read.tensors[1].first, "none");
  EXPECT_EQ(read.tensors[2].second[1].item<int64_t>(), 8);
  EXPECT_THAT(read.metadata, ElementsAre(std::pair<std::string, std::string>("k", "😀")));
}

void expect_malformed_file(const std::string& words, const std::string& bytes) {
  try {
    read_safetensors(bytes);
    ADD_FAILURE() << "nothing was thrown, expected: " << words;
  } catch (const Malformed& problem) {
    EXPECT_THAT(problem.what(), HasSubstr(words));
    EXPECT_EQ(std::string(problem.what()).find_first_of("\n\t\x01"), std::string::npos) << problem.what();
  }
}

TEST(Safetensors, MetadataThatIsNullIsNone) {
  const Safetensors read = read_safetensors(file_of(R"({"__metadata__":null})"));
  EXPECT_TRUE(read.tensors.empty() && read.metadata.empty());
}

TEST(Safetensors, RefusesAFileThatIsNoneOrEndsEarly) {
  expect_malformed_file("too short", "");
  expect_malformed_file("too short", "1234567");
  expect_malformed_file("begin with '{'", std::string(8, '\0'));
  expect_malformed_file("larger than 100 MB", std::string(8, '\xff'));
  const auto length = [](uint64_t value) { return std::string(reinterpret_cast<const char*>(&value), 8); };
  expect_malformed_file("larger than 100 MB", length(100'000'001) + "{}");
  expect_malformed_file("ends within its header", length(100'000'000) + "{}");
  expect_malformed_file("ends within its header", length(3) + "{}");
  expect_malformed_file("ends before the end of the tensor a",
                        file_of("{" + entry("a", "F32", "[2]", 0, 8) + "}", "1234567"));
  expect_malformed_file("ends before the end of the tensor b",
                        file_of("{" + entry("a", "U8", "[1]", 0, 1) + "," + entry("b", "U8", "[1]", 1, 2) + "}", "1"));
}

TEST(Safetensors, RefusesAHeaderThatIsNotTheFormatsJson) {
  for (const std::string header : {"[]", " {}", "\n{}", "\xef\xbb\xbf{}", "\"a\"", "1"}) {
    expect_malformed_file("begin with '{'", file_of(header));
  }
  for (const std::string& header : {"{"s, "{} x"s, "{}\n"s, "{}\0"s, "{\"a\":1"s, "{}\0}"s, "{\0}"s}) {
    expect_malformed_file("does not end with '}' and spaces", file_of(header));
  }
  for (const std::string header :
       {"{}}", "{}{}", "{a}", "{'a':{}}", "{\"a\"}", "{,}", "{\"a\":{},}", "{//\n}", "{\"\xff\":{}}",
        "{\"\\ud800\":{}}", "{\"a\nb\":{}}", "{\"a\":nul}", "{\"a\":1e999}"}) {
    EXPECT_THROW(read_safetensors(file_of(header)), Malformed) << header;
  }
  for (const std::string value : {"1", "-1", "1.5", "\"text\"", "null", "true", "[]", "[1]", "[[]]"}) {
    expect_malformed_file("where none belongs, at a", file_of("{\"a\":" + value + "}"));
    if (value[0] != '"')
      expect_malformed_file("where none belongs", file_of("{\"__metadata__\":{\"k\":" + value + "}}"));
    if (value != "null")
      expect_malformed_file("where none belongs, at __metadata__", file_of("{\"__metadata__\":" + value + "}"));
  }
  expect_malformed_file("where none belongs", file_of(R"({"__metadata__":{"k":{}}})"));
}

TEST(Safetensors, RefusesWhatIsThereTwice) {
  const std::string a = entry("a", "U8", "[0]", 0, 0);
  expect_malformed_file("the name a twice", file_of("{" + a + "," + a + "}"));
  expect_malformed_file("the name a twice", file_of("{" + a + "," + entry("\\u0061", "U8", "[1]", 0, 1) + "}", "x"));
  expect_malformed_file("the name __metadata__ twice", file_of(R"({"__metadata__":{},"__metadata__":{}})"));
  expect_malformed_file("the key k twice", file_of(R"({"__metadata__":{"k":"1","k":"1"}})"));
  expect_malformed_file("two shape", file_of(R"({"a":{"shape":[],"shape":[]}})"));
}

TEST(Safetensors, RefusesATensorOfWhichSomethingIsMissingOrUnknown) {
  const std::string data = "12345678";
  const auto tensor = [&](const std::string& inside) { return file_of("{\"a\":{" + inside + "}}", data); };
  expect_malformed_file("lacks its", tensor(""));
  expect_malformed_file("lacks its", tensor(R"("dtype":"F32","shape":[2])"));
  expect_malformed_file("lacks its", tensor(R"("shape":[2],"data_offsets":[0,8])"));
  expect_malformed_file("lacks its", tensor(R"("dtype":"F32","data_offsets":[0,8])"));
  expect_malformed_file("has more", tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"has more":1)"));
  for (const std::string type : {"F31", "f32", "", "C128", "F4", "F32 "}) {
    expect_malformed_file("unknown type " + type, file_of("{" + entry("a", type, "[2]", 0, 8) + "}", data));
  }
  for (const std::string shape :
       {"[-2]", "[2.0]", "[2e0]", "[null]", "[\"2\"]", "[[2]]", "{}", "2", "\"2\"", "[18446744073709551616]", "[-0]"}) {
    expect_malformed_file("where none belongs, at a", file_of("{" + entry("a", "F32", shape, 0, 8) + "}", data));
  }
  for (const std::string offsets : {"[]", "[0]", "[0,8,8]", "[0,\"8\"]", "[0,8.0]", "[-0,8]"}) {
    expect_malformed_file("where none belongs, at a", tensor(R"("dtype":"F32","shape":[2],"data_offsets":)" + offsets));
  }
  expect_malformed_file("where none belongs", tensor(R"("dtype":["F32"],"shape":[2],"data_offsets":[0,8])"));
  expect_malformed_file("at a?b", file_of("{\"a\\nb\":1}"));
}

TEST(Safetensors, RefusesDataThatDoesNotFit) {
  const auto one = [](const std::string& shape, int begin, int end, const std::string& data) {
    return file_of("{" + entry("a", "F32", shape, begin, end) + "}", data);
  };
  expect_malformed_file("do not fit its shape", one("[2]", 0, 4, "1234"));
  expect_malformed_file("do not fit its shape", one("[]", 0, 0, ""));
  expect_malformed_file("do not fit its shape", one("[0]", 0, 4, "1234"));
  expect_malformed_file("do not fit its shape", one("[1]", 0, 5, "12345"));
  expect_malformed_file("bytes follow", one("[1]", 0, 4, "12345"));
  expect_malformed_file("bytes follow", file_of("{}", "x"));
  expect_malformed_file("a hole or an overlap", one("[1]", 1, 5, "12345"));
  const auto two = [](int begin, int end) {
    return file_of("{" + entry("a", "U8", "[4]", 0, 4) + "," + entry("b", "U8", "[4]", begin, end) + "}", "12345678");
  };
  EXPECT_NO_THROW(read_safetensors(two(4, 8)));
  expect_malformed_file("overlap lies before the tensor b", two(3, 7));
  expect_malformed_file("overlap lies before the tensor b", two(5, 9));
  expect_malformed_file("overlap", two(0, 4));
  expect_malformed_file("do not fit", two(4, 3));
  expect_malformed_file("neither 0 nor 1", file_of("{" + entry("a", "BOOL", "[2]", 0, 2) + "}", "\1\2"));
}

TEST(Safetensors, RefusesShapesWhoseSizeOverflows) {
  for (const std::string shape :
       {"[18446744073709551615]", "[9223372036854775808]", "[9223372036854775807]", "[4294967296,4294967296]",
        "[4294967296,4294967296,0]", "[0,4294967296,4294967296]", "[3,6148914691236517206]", "[2305843009213693952]"}) {
    expect_malformed_file("too large", file_of("{" + entry("a", "F32", shape, 0, 0) + "}"));
  }
}

TEST(Safetensors, SurvivesDeepNesting) {
  const std::string deep(3'000'000, '[');
  expect_malformed_file("where none belongs", file_of("{\"a\":" + deep + "}"));
  std::string objects = "{";
  for (int i = 0; i < 500'000; ++i) objects += "\"a\":{";
  expect_malformed_file("a", file_of(objects + "}"));
}

TEST(Safetensors, SaysWhatItCannotWrite) {
  const at::Tensor one = at::ones({1});
  expect_error(ExitCode::internal, {"a twice"}, [&] { safetensors_bytes({{"a", one}, {"a", one}}, {}); });
  expect_error(ExitCode::internal, {"k twice"}, [&] { safetensors_bytes({}, {{"k", "1"}, {"k", "2"}}); });
  expect_error(ExitCode::internal, {"__metadata__ twice"}, [&] { safetensors_bytes({{"__metadata__", one}}, {}); });
  expect_error(ExitCode::internal, {"UTF-8"}, [&] { safetensors_bytes({{"\xff", one}}, {}); });
  expect_error(ExitCode::internal, {"UTF-8"}, [&] { safetensors_bytes({}, {{"k", "\xc3"}}); });
  expect_error(ExitCode::internal, {"ComplexDouble"}, [&] {
    safetensors_bytes({{"a", at::ones({1}, at::kComplexDouble)}}, {});
  });
  expect_error(ExitCode::internal, {"the tensor s"}, [&] { safetensors_bytes({{"s", one.to_sparse()}}, {}); });
  expect_error(ExitCode::internal, {"the tensor u"}, [&] { safetensors_bytes({{"u", at::Tensor()}}, {}); });
}

// Remembers the largest tensor that was asked for.
class Meter : public c10::Allocator {
 public:
  Meter() : below_(c10::GetCPUAllocator()) { c10::SetCPUAllocator(this, kPriority); }
  ~Meter() override { c10::SetCPUAllocator(below_, kPriority); }
  c10::DataPtr allocate(std::size_t bytes) override {
    largest = std::max(largest, bytes);
    return below_->allocate(bytes);
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
  std::size_t largest = 0;

 private:
  static constexpr uint8_t kPriority = 255;
  c10::Allocator* below_;
};

std::string mutated(std::string bytes, std::mt19937& random) {
  const auto below = [&](std::size_t n) { return random() % n; };
  const std::string parts[] = {"{",
                               "}",
                               "[",
                               "]",
                               "\"",
                               ",",
                               ":",
                               "-",
                               "0",
                               "9",
                               "null",
                               "true",
                               "\\",
                               "e99",
                               "F64",
                               "BOOL",
                               "[0,0]",
                               "shape",
                               "\xff",
                               "18446744073709551615",
                               "9223372036854775807",
                               "\"__metadata__\":"};
  for (std::size_t changes = 1 + below(4); changes > 0 && !bytes.empty(); --changes) {
    // Most of the time in the header, where it matters.
    const std::size_t at = below(below(4) == 0 ? bytes.size() : std::min<std::size_t>(bytes.size(), 400));
    switch (below(6)) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ 1 << below(8));
        break;
      case 1:
        bytes[at] = static_cast<char>(random());
        break;
      case 2:
        bytes.resize(at);
        break;
      case 3:
        bytes.insert(at, parts[below(std::size(parts))]);
        break;
      case 4:
        bytes.replace(at, below(12), parts[below(std::size(parts))]);
        break;
      default:
        bytes.insert(at, bytes.substr(below(bytes.size()), below(200)));
        break;
    }
    if (below(2) == 0 && bytes.size() >= 8) {  // a length that fits again lets more of the header be looked at
      const std::size_t end = bytes.find("}}", 8);
      const uint64_t length = end == bytes.npos ? bytes.size() - 8 : end + 2 - 8;
      bytes.replace(0, 8, reinterpret_cast<const char*>(&length), 8);
    }
  }
  return bytes;
}

TEST(Safetensors, NoMutatedFileCrashesOrAllocatesMoreThanItsSize) {
  const NamedTensors tensors = {{"a.weight", at::ones({2, 3})},
                                {"a.bias", at::zeros({3}, at::kHalf)},
                                {"empty", at::zeros({0, 4})},
                                {"flag", at::ones({2}, at::kBool)},
                                {"scalar", at::ones({})}};
  const std::string good[] = {safetensors_bytes(tensors, {{"format", "pt"}}),
                              checkpoint_bytes(tensors, R"({"step":1})")};
  std::mt19937 random(20240607);
  int accepted = 0, refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    const std::string bytes = mutated(good[i % 2], random);
    Meter meter;
    try {
      const Safetensors read = read_safetensors(bytes);
      std::size_t total = 0;
      for (const auto& [name, tensor] : read.tensors) total += tensor.nbytes();
      ASSERT_LE(total, bytes.size()) << "input " << i;
      ++accepted;
    } catch (const Malformed&) {
      ++refused;
    }
    ASSERT_LE(meter.largest, bytes.size()) << "input " << i;
    if (bytes != good[1]) {
      EXPECT_THROW(read_checkpoint(bytes), Malformed) << "input " << i;
    }
  }
  EXPECT_GT(accepted, 100);
  EXPECT_GT(refused, 10'000);
}

}  // namespace
}  // namespace lockstep
