#include "store/safetensors_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_set>

#include "lockstep/error.h"

namespace lockstep {
namespace {

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

// Takes the header's JSON piece by piece, so that nothing is kept that the format does not foresee. Deeper nesting than
// the format's fails at once.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  SafetensorsHeader header;

  bool start_object(std::size_t) override {
    if (place_ == Place::start) return enter(Place::top);
    if (place_ != Place::top) return unexpected("an object");
    if (name_ == kMetadataName) return enter(Place::metadata);
    header.entries.emplace_back().tensor.name = name_;
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
      header.metadata.emplace_back(field_, text);
      return true;
    }
    if (place_ != Place::tensor || field_ != "dtype") return unexpected("a text");
    const auto* known =
        std::find_if(std::begin(kTypes), std::end(kTypes), [&](auto& type) { return type.name == text; });
    if (known == std::end(kTypes)) {
      throw Malformed(fmt::format("the tensor {} has the unknown type {}", shown(name_), shown(text)));
    }
    header.entries.back().tensor.type = known->type;
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
      for (const uint64_t size : numbers_) header.entries.back().tensor.shape.push_back(std::bit_cast<int64_t>(size));
    } else {
      if (numbers_.size() != 2) return unexpected("other than two data_offsets");
      header.entries.back().begin = numbers_[0];
      header.entries.back().end = numbers_[1];
    }
    return enter(Place::tensor);
  }

  bool end_object() override {
    if (place_ == Place::tensor && seen_.size() != 3) {
      throw Malformed(fmt::format("the tensor {} lacks its dtype, shape or data_offsets", shown(name_)));
    }
    return enter(Place::top);
  }

  bool null() override {
    if (place_ == Place::top && name_ == kMetadataName) return true;  // as if there were none
    return unexpected("null");
  }
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

}  // namespace

SafetensorsHeader read_safetensors_header(std::string_view text) {
  if (!text.starts_with('{')) throw Malformed("its header does not begin with '{'");
  // The JSON parser takes a zero byte for the end of its input.
  const std::size_t last = text.find_last_not_of(' ');
  if (text[last] != '}' || text.find('\0') != text.npos) throw Malformed("its header does not end with '}' and spaces");
  HeaderReader reader;
  nlohmann::json::sax_parse(text.substr(0, last + 1), &reader);
  return std::move(reader.header);
}

std::string_view type_name(const std::string& tensor, c10::ScalarType type) {
  for (const TypeName& known : kTypes)
    if (known.type == type) return known.name;
  throw Error(ExitCode::internal,
              fmt::format("the tensor {} is of type {}, which safetensors has not", tensor, c10::toString(type)),
              "convert it first");
}

std::string shown(std::string_view name) {
  std::string text(name.substr(0, 100));
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; }, '?');
  return text;
}

}  // namespace lockstep
