#include "store/utf8.h"

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>

namespace lockstep {

bool is_utf8(std::string_view bytes) {
  for (std::size_t i = 0; i < bytes.size();) {
    const auto first = static_cast<uint8_t>(bytes[i]);
    if (first < 0x80) {
      ++i;
      continue;
    }
    // Following bytes, and the range of the first of them: RFC 3629, section 4.
    const std::size_t more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
    if (first < 0xc2 || first > 0xf4 || bytes.size() - i <= more) return false;
    const uint8_t least = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    const uint8_t most = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    for (std::size_t k = 1; k <= more; ++k) {
      const auto next = static_cast<uint8_t>(bytes[i + k]);
      if (next < (k == 1 ? least : 0x80) || next > (k == 1 ? most : 0xbf)) return false;
    }
    i += more + 1;
  }
  return true;
}

std::string escaped(std::string_view bytes) {
  std::string text;
  for (const char c : bytes.substr(0, 100)) {
    const auto byte = static_cast<uint8_t>(c);
    text += byte >= 0x20 && byte < 0x7f ? std::string(1, c) : fmt::format("\\x{:02x}", byte);
  }
  return bytes.size() > 100 ? text + "…" : text;
}

}  // namespace lockstep
