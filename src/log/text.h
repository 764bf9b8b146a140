// Numbers and places as a person reads them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep {

/// "45s", "2m 05s", "3h 04m", "2d 01h"; "?" for NaN or a negative time.
std::string human_duration(double seconds);

/// "1234567" as "1,234,567".
std::string grouped(int64_t number);

/// Columns of a terminal that a text takes: its characters, if none is of double width.
std::size_t columns_of(std::string_view text);

/// The first part, and behind two blanks each of the following ones, up to the first that `limit` columns have no room
/// for. 0: no limit.
std::string parts_within(const std::vector<std::string>& parts, std::size_t limit);

/// The lines of a text of one line in at most `limit` columns, broken at blanks; lines after the first begin with
/// `indent` blanks. A word that is longer, such as a path, stays whole.
std::vector<std::string> wrapped(std::string_view text, std::size_t limit, std::size_t indent);

/// Ranks by host, from the host of each rank: "a: 2, b: 2"; a long list is cut short.
std::string hosts_text(const std::vector<std::string>& host_of_rank);

}  // namespace lockstep
