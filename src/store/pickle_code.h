// The bytes of a pickle, taken from the first to the last.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "store/zip_reader.h"

namespace lockstep {

/// Throws Malformed where the bytes end too early.
class PickleCode {
 public:
  explicit PickleCode(std::string_view bytes) : left_(bytes) {}

  std::string_view take(uint64_t size) {
    if (size > left_.size()) throw Malformed("its pickle ends too early");
    const std::string_view taken = left_.substr(0, size);
    left_.remove_prefix(size);
    return taken;
  }

  /// Up to a line break, which is taken too.
  std::string line() {
    const std::size_t end = left_.find('\n');
    if (end == std::string_view::npos) throw Malformed("its pickle ends too early");
    std::string text(take(end));
    take(1);
    return text;
  }

  /// A little-endian number of so many bytes.
  uint64_t number(unsigned size) {
    uint64_t value = 0;
    const std::string_view digits = take(size);
    for (unsigned i = 0; i < size; ++i) value |= uint64_t{static_cast<uint8_t>(digits[i])} << 8 * i;
    return value;
  }

 private:
  std::string_view left_;
};

}  // namespace lockstep
