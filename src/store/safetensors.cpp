#include "store/safetensors.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/Layout.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <unordered_set>

#include "lockstep/error.h"

namespace lockstep {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the format is little-endian, and bytes are copied as they are");

constexpr uint64_t kLargestHeader = 100'000'000;  // the reference reader's limit
constexpr std::size_t kLengthSize = 8;
constexpr std::size_t kAlignment = 8;  // of the data in the file
constexpr const char* kMetadata = "__metadata__";

struct TypeName {
  std::string_view name;
  c10::ScalarType type;
};
// Those that the reference has and LibTorch too, but for elements of less than a byte.
constexpr TypeName kTypes[] = {{"BOOL", at::kBool},
                               {"U8", at::kByte},
                               {"I8", at::kChar},
                               {"F8_E5M2", at::kFloat8_e5m2},
                               {"F8_E4M3", at::kFloat8_e4m3fn},
                               {"F8_E5M2FNUZ", at::kFloat8_e5m2fnuz},
                               {"F8_E4M3FNUZ", at::kFloat8_e4m3fnuz},
                               {"F8_E8M0", at::kFloat8_e8m0fnu},
                               {"I16", at::kShort},
                               {"U16", at::kUInt16},
                               {"F16", at::kHalf},
                               {"BF16", at::kBFloat16},
                               {"I32", at::kInt},
                               {"U32", at::kUInt32},
                               {"F32", at::kFloat},
                               {"I64", at::kLong},
                               {"U64", at::kUInt64},
                               {"F64", at::kDouble},
                               {"C64", at::kComplexFloat}};

// A name from a file, fit for a message.
std::string shown(std::string_view name) {
  std::string text(name.substr(0, 100));
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; }, '?');
  return text;
}

struct Entry {
  TensorView tensor;
  uint64_t begin = 0, end = 0;
};

// Takes the header's JSON piece by piece, so that nothing is kept that the format does not foresee. Deeper nesting than
// the format's fails at once.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<Entry> entries;
  Metadata metadata;

  bool start_object(std::size_t) override {
    if (place_ == Place::start) return enter(Place::top);
    if (place_ != Place::top) return unexpected("an object");
    if (name_ == kMetadata) return enter(Place::metadata);
    entries.emplace_back().tensor.name = name_;
    seen_.clear();
    return enter(Place::tensor);
  }

  bool key(string_t& text) override {
    if (place_ == Place::top) {
      if (!names_.insert(text).second) throw Malformed(fmt::format("its header has the name {} twice", shown(text)));
      name_ = text;
    } else if (place_ == Place::metadata) {
      if (!texts_.insert(text).second) throw Malformed(fmt::format("its metadata has the key {} twice", shown(text)));
      field_ = text;
    } else {
      if (text != "dtype" && text != "shape" && text != "data_offsets") return unexpected(shown(text));
      if (!seen_.insert(text).second) throw Malformed(fmt::format("the tensor {} has two {}", shown(name_), text));
      field_ = text;
    }
    return true;
  }

  bool string(string_t& text) override {
    if (place_ == Place::metadata) {
      metadata.emplace_back(field_, text);
      return true;
    }
    if (place_ != Place::tensor || field_ != "dtype") return unexpected("a text");
    const auto* known =
        std::find_if(std::begin(kTypes), std::end(kTypes), [&](auto& type) { return type.name == text; });
    if (known == std::end(kTypes)) {
      throw Malformed(fmt::format("the tensor {} has the unknown type {}", shown(name_), shown(text)));
    }
    entries.back().tensor.type = known->type;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ != Place::tensor || field_ == "dtype") return unexpected("a list");
    numbers_.clear();
    return enter(Place::list);
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::list) return unexpected("a number");
    numbers_.push_back(value);
    return true;
  }

  bool end_array() override {
    if (field_ == "shape") {
      for (const uint64_t size : numbers_) entries.back().tensor.shape.push_back(std::bit_cast<int64_t>(size));
    } else {
      if (numbers_.size() != 2) return unexpected("other than two data_offsets");
      entries.back().begin = numbers_[0];
      entries.back().end = numbers_[1];
    }
    return enter(Place::tensor);
  }

  bool end_object() override {
    if (place_ == Place::tensor && seen_.size() != 3) {
      throw Malformed(fmt::format("the tensor {} lacks its dtype, shape or data_offsets", shown(name_)));
    }
    return enter(Place::top);
  }

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("true or false"); }
  bool number_integer(number_integer_t) override { return unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { return unexpected("a number that is not whole"); }
  bool binary(binary_t&) override { return unexpected("binary data"); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    throw Malformed(fmt::format("its header is no JSON from byte {} on", position));
  }

 private:
  enum class Place { start, top, metadata, tensor, list };

  bool enter(Place place) {
    place_ = place;
    return true;
  }
  [[noreturn]] bool unexpected(const std::string& what) const {
    throw Malformed(fmt::format("its header has {} where none belongs, at {}", what, shown(name_)));
  }

  Place place_ = Place::start;
  std::string name_, field_;                       // the last keys of the top and of what lies below
  std::unordered_set<std::string> names_, texts_;  // the keys seen at the top and in the metadata
  std::set<std::string> seen_;                     // the keys seen in this tensor
  std::vector<uint64_t> numbers_;
};

// The bytes a tensor has by its type and shape. Sizes of 0 count as 1 here first: LibTorch computes strides so.
uint64_t size_of(const TensorView& tensor) {
  int64_t reach = static_cast<int64_t>(c10::elementSize(tensor.type));
  bool empty = false;
  for (const int64_t size : tensor.shape) {
    empty |= size == 0;
    if (size < 0 || __builtin_mul_overflow(reach, std::max<int64_t>(size, 1), &reach)) {
      throw Malformed(fmt::format("the shape of the tensor {} is too large", shown(tensor.name)));
    }
  }
  return empty ? 0 : static_cast<uint64_t>(reach);
}

uint64_t length_of_header(std::string_view bytes) {
  if (bytes.size() < kLengthSize) throw Malformed("it is too short for a safetensors file");
  uint64_t length;
  std::memcpy(&length, bytes.data(), kLengthSize);
  if (length > kLargestHeader) throw Malformed("its header would be larger than 100 MB");
  if (length > bytes.size() - kLengthSize) throw Malformed("it ends within its header");
  return length;
}

HeaderReader read_header(std::string_view text) {
  if (!text.starts_with('{')) throw Malformed("its header does not begin with '{'");
  // The JSON parser takes a zero byte for the end of its input.
  const std::size_t last = text.find_last_not_of(' ');
  if (text[last] != '}' || text.find('\0') != text.npos) throw Malformed("its header does not end with '}' and spaces");
  HeaderReader header;
  nlohmann::json::sax_parse(text.substr(0, last + 1), &header);
  return header;
}

std::string quoted(const std::string& text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::type_error&) {
    throw Error(ExitCode::internal, fmt::format("the text \"{}\" for a safetensors file is not UTF-8", shown(text)),
                "give text in UTF-8");
  }
}

std::string_view name_of(const std::string& tensor, c10::ScalarType type) {
  for (const TypeName& known : kTypes)
    if (known.type == type) return known.name;
  throw Error(ExitCode::internal,
              fmt::format("the tensor {} is of type {}, which safetensors has not", tensor, c10::toString(type)),
              "convert it first");
}

// `"NAME": ` for a header, each name once.
class Keys {
 public:
  std::string add(const std::string& name) {
    if (!names_.insert(name).second) {
      throw Error(ExitCode::internal, fmt::format("a safetensors file cannot have the name {} twice", shown(name)),
                  "give each its own name");
    }
    return quoted(name) + ":";
  }

 private:
  std::unordered_set<std::string> names_;
};

}  // namespace

at::Tensor flat_on_host(const std::string& name, const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.layout() != c10::kStrided) {
    throw Error(ExitCode::internal, fmt::format("the tensor {} is undefined or not dense", name),
                "give dense tensors only");
  }
  // Conjugation and negation may be pending: marks on the tensor, not yet in its bytes.
  return tensor.detach().resolve_conj().resolve_neg().cpu().contiguous();
}

std::string_view data_of(const at::Tensor& flat) {
  if (flat.nbytes() == 0) return {};
  return {static_cast<const char*>(flat.const_data_ptr()), flat.nbytes()};
}

std::string safetensors_bytes(const NamedTensors& tensors, const Metadata& metadata) {
  NamedTensors ordered;
  for (const auto& [name, tensor] : tensors) ordered.emplace_back(name, flat_on_host(name, tensor));
  std::stable_sort(ordered.begin(), ordered.end(),
                   [](const auto& a, const auto& b) { return a.second.element_size() > b.second.element_size(); });

  Keys texts, names;
  std::string header = "{" + names.add(kMetadata) + "{";
  for (const auto& [key, text] : metadata) {
    header += fmt::format("{}{}{}", header.ends_with('{') ? "" : ",", texts.add(key), quoted(text));
  }
  header += "}";
  uint64_t begin = 0;
  for (const auto& [name, tensor] : ordered) {
    const uint64_t end = begin + tensor.nbytes();
    header += fmt::format(R"(,{}{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", names.add(name),
                          name_of(name, tensor.scalar_type()), fmt::join(tensor.sizes(), ","), begin, end);
    begin = end;
  }
  header += "}";
  header.append((kAlignment - (kLengthSize + header.size()) % kAlignment) % kAlignment, ' ');
  const uint64_t length = header.size();
  if (length > kLargestHeader) {
    throw Error(ExitCode::internal, "the header of a safetensors file would be larger than 100 MB",
                "save fewer tensors");
  }

  std::string bytes;
  bytes.reserve(kLengthSize + length + begin);
  bytes.append(reinterpret_cast<const char*>(&length), kLengthSize);
  bytes += header;
  for (const auto& [name, tensor] : ordered) bytes += data_of(tensor);
  return bytes;
}

at::Tensor TensorView::copy() const {
  at::Tensor tensor = at::empty(shape, type);
  if (!data.empty()) std::memcpy(tensor.data_ptr(), data.data(), data.size());
  return tensor;
}

NamedTensors copy_tensors(const SafetensorsView& view) {
  NamedTensors tensors;
  for (const TensorView& tensor : view.tensors) tensors.emplace_back(tensor.name, tensor.copy());
  return tensors;
}

SafetensorsView view_safetensors(std::string_view bytes) {
  const std::string_view start = bytes.substr(0, kLengthSize + length_of_header(bytes));
  HeaderReader header = read_header(start.substr(kLengthSize));
  const std::string_view data = bytes.substr(start.size());

  std::stable_sort(header.entries.begin(), header.entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  SafetensorsView view{{}, std::move(header.metadata), start};
  uint64_t reached = 0;
  for (auto& [tensor, begin, end] : header.entries) {
    if (begin != reached)
      throw Malformed(fmt::format("a hole or an overlap lies before the tensor {}", shown(tensor.name)));
    if (end < begin || end - begin != size_of(tensor)) {
      throw Malformed(fmt::format("the data_offsets of the tensor {} do not fit its shape", shown(tensor.name)));
    }
    if (end > data.size()) throw Malformed(fmt::format("it ends before the end of the tensor {}", shown(tensor.name)));
    tensor.data = data.substr(begin, end - begin);
    // To C++ a bool of another value is undefined.
    if (tensor.type == at::kBool &&
        std::any_of(tensor.data.begin(), tensor.data.end(), [](char c) { return c & ~1; })) {
      throw Malformed(fmt::format("the tensor {} has bools that are neither 0 nor 1", shown(tensor.name)));
    }
    reached = end;
    view.tensors.push_back(std::move(tensor));
  }
  if (reached != data.size()) throw Malformed("bytes follow its last tensor");
  return view;
}

Safetensors read_safetensors(std::string_view bytes) {
  SafetensorsView view = view_safetensors(bytes);
  return {copy_tensors(view), std::move(view.metadata)};
}

}  // namespace lockstep
