// What ranks tell each other when they do not agree: texts packed for World::all_gather, and ranks in words.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace lockstep {

/// Each text ended by a zero byte; no text may hold one.
std::string pack(const std::vector<std::string>& texts);
std::vector<std::string> unpack(std::string_view packed);

/// "rank 2", "ranks 1, 3", and from nine on "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 4 more".
std::string name_ranks(const std::vector<int>& ranks);

/// The same with their hosts, `hosts` being those of all ranks: "ranks 1, 3 (hosts a, b)".
std::string name_ranks(const std::vector<int>& ranks, const std::vector<std::string>& hosts);

}  // namespace lockstep
