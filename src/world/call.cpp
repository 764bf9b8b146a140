#include "world/call.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace lockstep {
namespace {

template <size_t N>
void put(char (&to)[N], const char* text) {
  std::strncpy(to, text, N - 1);
}

bool same(const char* a, const char* b) { return std::strcmp(a, b) == 0; }

// "rank 0, rank 2 and 14 more"
std::string list(const std::vector<std::string>& places) {
  constexpr size_t kMost = 8;
  const size_t named = std::min(places.size(), kMost);
  const std::string first =
      fmt::format("{}", fmt::join(places.begin(), places.begin() + static_cast<long>(named), ", "));
  return places.size() > named ? fmt::format("{} and {} more", first, places.size() - named) : first;
}

// What each rank is in, ranks that say the same together: "rank 0: all-reduce 17 …; rank 1, rank 2: all-gather 17 …".
std::string what_each_makes(const std::vector<CallOfRank>& calls) {
  std::vector<std::pair<std::string, std::vector<std::string>>> groups;
  for (const CallOfRank& one : calls) {
    std::string text = to_text(one.call, one.number);
    if (!one.doing.empty()) text += " in " + one.doing;
    auto group = std::find_if(groups.begin(), groups.end(), [&](const auto& other) { return other.first == text; });
    if (group == groups.end()) group = groups.insert(groups.end(), {text, {}});
    group->second.push_back(one.place);
  }
  std::vector<std::string> parts;
  for (const auto& [text, places] : groups) parts.push_back(fmt::format("{}: {}", list(places), text));
  return fmt::format("{}", fmt::join(parts, "; "));
}

Error error_of(const std::vector<CallOfRank>& calls) {
  std::vector<CallOfRank> there;
  std::vector<std::string> gone;
  for (const CallOfRank& one : calls) {
    if (one.call.is_end()) {
      gone.push_back(one.last_step > 0 ? fmt::format("{} left the job in order after step {}", one.place, one.last_step)
                                       : fmt::format("{} left the job in order", one.place));
    } else {
      there.push_back(one);
    }
  }
  if (!gone.empty() && !there.empty()) {
    return Error(ExitCode::internal,
                 fmt::format("{}, while others are in a collective: {}", list(gone), what_each_makes(there)),
                 "every rank must make the same collectives: give all ranks equally many batches, or let them agree on "
                 "the end");
  }
  return Error(ExitCode::internal, "the ranks make different collectives: " + what_each_makes(calls),
               "every rank must make the same calls in the same order, with tensors of equal shapes and types");
}

}  // namespace

Call Call::of(const char* kind, const Options& options) {
  Call call;
  call.count = options.count;
  call.bytes = options.bytes;
  call.root = options.root;
  put(call.kind, kind);
  put(call.op, options.op);
  put(call.type, options.type);
  return call;
}

bool Call::is_end() const { return same(kind, kEndOfJob); }

bool Call::agrees_with(const Call& other) const {
  return same(kind, other.kind) && same(op, other.op) && same(type, other.type) && root == other.root &&
         count == other.count && (count < 0 || bytes == other.bytes);
}

std::string to_text(const Call& call, uint64_t number) {
  const std::string name = fmt::format("{} {}", call.kind, number);
  if (call.count < 0) return name;
  std::string what = call.op[0] == '\0' ? "" : fmt::format("{} of ", call.op);
  what += call.type[0] == '\0' ? fmt::format("{} bytes", call.bytes) : fmt::format("{} {}", call.count, call.type);
  if (call.root >= 0) what += fmt::format(" from rank {}", call.root);
  if (call.type[0] != '\0') what += fmt::format(", {} bytes", call.bytes);
  return fmt::format("{} ({})", name, what);
}

Disagreement::Disagreement(const std::vector<CallOfRank>& calls) : Error(error_of(calls)) {}

}  // namespace lockstep
