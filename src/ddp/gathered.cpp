#include "ddp/gathered.h"

#include <fmt/format.h>

#include <algorithm>

namespace lockstep {
namespace {

std::string enumerate(const std::string& noun, const std::vector<std::string>& names) {
  constexpr size_t kMost = 8;
  const auto shown = names.begin() + static_cast<std::ptrdiff_t>(std::min(names.size(), kMost));
  const std::string more = names.size() > kMost ? fmt::format(" and {} more", names.size() - kMost) : "";
  return fmt::format("{}{} {}{}", noun, names.size() == 1 ? "" : "s", fmt::join(names.begin(), shown, ", "), more);
}

}  // namespace

std::string pack(const std::vector<std::string>& texts) {
  std::string packed;
  for (const std::string& text : texts) packed.append(text).push_back('\0');
  return packed;
}

std::vector<std::string> unpack(std::string_view packed) {
  std::vector<std::string> texts;
  for (size_t at = 0; at < packed.size();) {
    const size_t end = std::min(packed.find('\0', at), packed.size());
    texts.emplace_back(packed.substr(at, end - at));
    at = end + 1;
  }
  return texts;
}

std::string name_ranks(const std::vector<int>& ranks) {
  std::vector<std::string> names;
  names.reserve(ranks.size());
  for (const int rank : ranks) names.push_back(std::to_string(rank));
  return enumerate("rank", names);
}

std::string name_ranks(const std::vector<int>& ranks, const std::vector<std::string>& hosts) {
  std::vector<std::string> names;  // each host once, in the order of its first rank
  for (const int rank : ranks) {
    const std::string& host = hosts[static_cast<size_t>(rank)];
    if (std::find(names.begin(), names.end(), host) == names.end()) names.push_back(host);
  }
  return fmt::format("{} ({})", name_ranks(ranks), enumerate("host", names));
}

}  // namespace lockstep
