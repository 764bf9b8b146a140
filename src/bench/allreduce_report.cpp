#include "bench/allreduce_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "bench/bytes.h"
#include "lockstep/error.h"

namespace lockstep {
namespace {

constexpr const char* kColumns =
    "{:<1}{:>11} {:>11} {:>6} {:>6} {:>11} {:>8} {:>8} {:>11} {:>11} {:>11} {:>7} {:>11} {:>11}\n";

nlohmann::ordered_json times_json(const Summary& us) {
  return {{"mean", us.mean}, {"p50", us.p50}, {"p95", us.p95}, {"p99", us.p99}};
}

Floor parse_floor(const std::string& text) {
  const size_t at = text.find('@');
  double busbw = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + std::min(at, text.size()), busbw);
  if (at == std::string::npos || error != std::errc() || rest != text.data() + at || !std::isfinite(busbw) ||
      busbw <= 0) {
    throw Error(ExitCode::usage, fmt::format("'{}' is not a value for --floor", text),
                "write GB/s of bus bandwidth and a size: --floor 0.5@1M");
  }
  return {.busbw = busbw, .bytes = parse_bytes(text.substr(at + 1), "--floor")};
}

}  // namespace

std::string allreduce_columns() {
  return fmt::format(fmt::runtime(kColumns), "#", "size", "count", "type", "redop", "time", "algbw", "busbw", "p50",
                     "p95", "p99", "#wrong", "plain p50", "ours/plain") +
         fmt::format(fmt::runtime(kColumns), "#", "(B)", "(elements)", "", "", "(us)", "(GB/s)", "(GB/s)", "(us)",
                     "(us)", "(us)", "", "(us)", "(of p50)");
}

std::string allreduce_line(const AllreduceRow& row) {
  const auto us = [](double value) { return fmt::format("{:.2f}", value); };
  const auto gb_s = [](double value) { return fmt::format("{:.3f}", value); };
  return fmt::format(fmt::runtime(kColumns), "", row.bytes, row.count, "float", "sum", us(row.us.mean), gb_s(row.algbw),
                     gb_s(row.busbw), us(row.us.p50), us(row.us.p95), us(row.us.p99), row.wrong, us(row.plain_us.p50),
                     us(row.ratio()));
}

nlohmann::ordered_json allreduce_json(const AllreduceRow& row) {
  return {{"bytes", row.bytes},
          {"count", row.count},
          {"type", "float"},
          {"redop", "sum"},
          {"iterations", row.iterations},
          {"time_us", times_json(row.us)},
          {"algbw_GBps", row.algbw},
          {"busbw_GBps", row.busbw},
          {"wrong", row.wrong},
          {"plain_time_us", times_json(row.plain_us)},
          {"ours_to_plain", row.ratio()}};
}

std::vector<Floor> parse_floors(const std::string& text) {
  std::vector<Floor> floors;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    floors.push_back(parse_floor(text.substr(at, end - at)));
    at = end + 1;
  }
  return floors;
}

void check_floors_apply(const std::vector<Floor>& floors, const std::vector<int64_t>& sizes, int ranks) {
  if (floors.empty()) return;
  if (ranks == 1) {
    throw Error(ExitCode::usage, "--floor means nothing at one rank: the bus bandwidth is 0 by definition",
                "start more ranks: mpirun -n 2 lockstep bench comm …");
  }
  for (const Floor& floor : floors) {
    if (std::find(sizes.begin(), sizes.end(), floor.bytes) != sizes.end()) continue;
    std::vector<std::string> names;
    for (const int64_t size : sizes) names.push_back(bytes_text(size));
    throw Error(ExitCode::usage,
                fmt::format("--floor {}@{}: this sweep does not measure {}", floor.busbw, bytes_text(floor.bytes),
                            bytes_text(floor.bytes)),
                fmt::format("its sizes are {}; name others with --sizes", fmt::join(names, ", ")));
  }
}

void check_floors(const std::vector<Floor>& floors, const std::vector<AllreduceRow>& rows) {
  std::vector<std::string> missed;
  for (const Floor& floor : floors) {
    for (const AllreduceRow& row : rows) {
      if (row.bytes != floor.bytes || row.busbw >= floor.busbw) continue;
      missed.push_back(fmt::format("{:.3g} GB/s at {} is below the floor of {} GB/s", row.busbw, bytes_text(row.bytes),
                                   floor.busbw));
    }
  }
  if (missed.empty()) return;
  throw Error(ExitCode::too_slow, fmt::format("bus bandwidth: {}", fmt::join(missed, "; ")),
              "look at plain p50 and p99: MPI slow as well is the network or a busy machine, run again on a quiet one");
}

}  // namespace lockstep
