// Numbers and places as a person reads them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lockstep {

/// "45s", "2m 05s", "3h 04m", "2d 01h"; "?" for NaN or a negative time.
std::string human_duration(double seconds);

/// "1234567" as "1,234,567".
std::string grouped(int64_t number);

/// Ranks by host, from the host of each rank: "a: 2, b: 2"; a long list is cut short.
std::string hosts_text(const std::vector<std::string>& host_of_rank);

}  // namespace lockstep
