// Sizes of messages as a person types and reads them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lockstep {

/// "4", "64k", "1M", "2G" in bytes; k, M and G are powers of 1024, as in nccl-tests, and may be upper or lower case.
/// Throws Error (usage) naming `flag` for anything else, and for more than 2^60.
int64_t parse_bytes(const std::string& text, const std::string& flag);

/// The shortest text that parse_bytes reads back as `bytes`: 1048576 as "1M", 1000 as "1000".
std::string bytes_text(int64_t bytes);

/// min, min * factor, min * factor * factor … up to and with `max`. `min` is at least 1, `factor` at least 2.
std::vector<int64_t> sweep_sizes(int64_t min, int64_t max, int64_t factor);

}  // namespace lockstep
