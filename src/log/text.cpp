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

std::size_t columns_of(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

std::string parts_within(const std::vector<std::string>& parts, std::size_t limit) {
  std::string line;
  for (const std::string& part : parts) {
    if (line.empty()) {
      line = part;
      continue;
    }
    if (limit > 0 && columns_of(line) + 2 + columns_of(part) > limit) break;
    line += "  " + part;
  }
  return line;
}

std::vector<std::string> wrapped(std::string_view text, std::size_t limit, std::size_t indent) {
  std::vector<std::string> lines(1);
  for (std::size_t at = 0; at < text.size();) {
    // Blanks before a word go with it, unless it begins a line.
    const std::size_t word = std::min(text.find_first_not_of(' ', at), text.size());
    const std::size_t end = std::min(text.find(' ', word), text.size());
    const bool begun = lines.back().find_first_not_of(' ') != std::string::npos;
    if (begun && columns_of(lines.back()) + columns_of(text.substr(at, end - at)) > limit) {
      lines.push_back(std::string(indent, ' ').append(text.substr(word, end - word)));
    } else {
      lines.back() += text.substr(at, end - at);
    }
    at = end;
  }
  return lines;
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
