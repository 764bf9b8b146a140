#include "log/text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>

namespace lockstep {

std::string human_duration(double seconds) {
  if (!(seconds >= 0)) return "?";
  const int64_t s = std::llround(std::min(seconds, 1e12));
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m {:02}s", s / 60, s % 60);
  if (s < 86'400) return fmt::format("{}h {:02}m", s / 3600, s / 60 % 60);
  return fmt::format("{}d {:02}h", s / 86'400, s / 3600 % 24);
}

std::string grouped(int64_t number) {
  std::string text = std::to_string(number);
  const int64_t first = number < 0 ? 1 : 0;
  for (auto at = static_cast<int64_t>(text.size()) - 3; at > first; at -= 3) {
    text.insert(static_cast<std::size_t>(at), 1, ',');
  }
  return text;
}

std::string hosts_text(const std::vector<std::string>& host_of_rank) {
  std::map<std::string, int> ranks;
  for (const std::string& host : host_of_rank) ++ranks[host];
  std::vector<std::string> parts;
  for (const auto& [host, count] : ranks) {
    if (parts.size() == 8) {
      parts.push_back("…");
      break;
    }
    parts.push_back(fmt::format("{}: {}", host, count));
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

}  // namespace lockstep
