// The rows of `lockstep bench comm` as a table and as JSON, and the floors that they may have to reach.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "bench/allreduce.h"

namespace lockstep {

/// Two lines of column names and units, each beginning with "#": those of nccl-tests, then ours.
std::string allreduce_columns();
std::string allreduce_line(const AllreduceRow& row);
nlohmann::ordered_json allreduce_json(const AllreduceRow& row);

/// The least bus bandwidth at one size.
struct Floor {
  double busbw = 0;  ///< GB/s
  int64_t bytes = 0;
};

/// "0.5@1M", or several with commas between. Throws Error (usage).
std::vector<Floor> parse_floors(const std::string& text);

/// Throws Error (usage) when a floor could never be looked at: a size that is not among `sizes`, or one rank.
void check_floors_apply(const std::vector<Floor>& floors, const std::vector<int64_t>& sizes, int ranks);

/// Throws Error (too_slow) naming each floor that its row does not reach.
void check_floors(const std::vector<Floor>& floors, const std::vector<AllreduceRow>& rows);

}  // namespace lockstep
