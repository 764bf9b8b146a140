// Numbers as a person reads them.
#pragma once

#include <cstdint>
#include <string>

namespace lockstep {

/// "45s", "2m 05s", "3h 04m", "2d 01h"; "?" for NaN or a negative time.
std::string human_duration(double seconds);

/// "1234567" as "1,234,567".
std::string grouped(int64_t number);

}  // namespace lockstep
