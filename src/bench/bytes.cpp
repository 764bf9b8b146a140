#include "bench/bytes.h"

#include <fmt/format.h>

#include <charconv>
#include <string_view>

#include "lockstep/error.h"

namespace lockstep {
namespace {

constexpr std::string_view kSuffixes = "kMG";

}  // namespace

int64_t parse_bytes(const std::string& text, const std::string& flag) {
  constexpr int64_t kMost = int64_t{1} << 60;
  int64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  int shift = 0;
  bool fits = error == std::errc() && number >= 0 && rest + 1 >= end;
  if (fits && rest + 1 == end) {
    const char suffix = *rest == 'K' ? 'k' : *rest == 'm' ? 'M' : *rest == 'g' ? 'G' : *rest;
    const size_t at = kSuffixes.find(suffix);
    fits = at != std::string_view::npos;
    shift = fits ? 10 * (static_cast<int>(at) + 1) : 0;
  }
  if (!fits || number > kMost >> shift) {
    throw Error(ExitCode::usage, fmt::format("'{}' is not a size for {}", text, flag),
                "write bytes, or with k, M or G for powers of 1024: 4, 64k, 1M");
  }
  return number << shift;
}

std::string bytes_text(int64_t bytes) {
  std::string suffix;
  for (const char next : kSuffixes) {
    if (bytes == 0 || bytes % 1024 != 0) break;
    bytes /= 1024;
    suffix = next;
  }
  return fmt::format("{}{}", bytes, suffix);
}

std::vector<int64_t> sweep_sizes(int64_t min, int64_t max, int64_t factor) {
  std::vector<int64_t> sizes;
  for (int64_t size = min; size <= max; size *= factor) {
    sizes.push_back(size);
    if (size > max / factor) break;
  }
  return sizes;
}

}  // namespace lockstep
