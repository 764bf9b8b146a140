// The JSON header of a safetensors file, as safetensors.cpp needs it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "store/safetensors.h"

namespace lockstep {

/// The name in the header under which the metadata is, and no tensor.
inline constexpr const char* kMetadataName = "__metadata__";

/// What a header says, not yet compared with the data: the entries in its order, their `data` not set.
struct SafetensorsHeader {
  struct Entry {
    TensorView tensor;
    uint64_t begin = 0, end = 0;  ///< in bytes from the start of the data
  };
  std::vector<Entry> entries;
  Metadata metadata;
};

/// `text` is the JSON and its padding. Throws Malformed. A size beyond int64 is negative in the result.
SafetensorsHeader read_safetensors_header(std::string_view text);

/// The format's name of a type. Throws Error (internal) naming `tensor` when it has none.
std::string_view type_name(const std::string& tensor, c10::ScalarType type);

/// A name from a file, fit for a message.
std::string shown(std::string_view name);

}  // namespace lockstep
