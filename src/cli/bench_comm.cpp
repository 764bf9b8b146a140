#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "bench/allreduce.h"
#include "bench/allreduce_report.h"
#include "bench/bytes.h"
#include "bench/job.h"
#include "bench/memory.h"
#include "cli/options.h"
#include "cli/report.h"
#include "comm/group.h"
#include "comm/mpi/plain_allreduce.h"
#include "lockstep/world.h"
#include "store/files.h"

namespace lockstep {
namespace {

struct Request {
  std::vector<int64_t> sizes;  // in bytes
  AllreduceOptions measuring;
  std::vector<Floor> floors;
  bool own_memory = false;  // the buffer lies just anywhere
  std::string json;         // path; empty: none
};

cxxopts::Options comm_options() {
  cxxopts::Options options("lockstep bench comm",
                           "All-reduce of float32 over all ranks, beside MPI's own: time and bandwidth by size.\n");
  options.custom_help("[FLAGS]").add_options()                                              //
      ("min", "Smallest size", cxxopts::value<std::string>()->default_value("4"), "BYTES")  //
      ("max", "Largest size; k, M, G are powers of 1024", cxxopts::value<std::string>()->default_value("256M"),
       "BYTES")                                                                                                //
      ("factor", "From one size to the next", cxxopts::value<int64_t>()->default_value("2"), "N")              //
      ("sizes", "These sizes, with commas between, and no sweep", cxxopts::value<std::string>(), "BYTES,...")  //
      ("iterations", "Timed calls of each size (default: as fit into 0.3 s, from 5 to 2000)", cxxopts::value<int64_t>(),
       "N")                                                                                 //
      ("warmup", "Calls before these", cxxopts::value<int64_t>()->default_value("3"), "N")  //
      ("check", "Compare the result of every call, not only of the warm-up and the last")   //
      ("floor", "Fail (exit 79) when busbw at this size is lower; may be repeated",
       cxxopts::value<std::vector<std::string>>(), "GBPS@BYTES")                                                  //
      ("own-memory", "Sum a buffer of this rank's own, not one where DistributedDataParallel keeps its buckets")  //
      ("device", "auto, cpu or cuda", cxxopts::value<std::string>()->default_value("auto"), "DEVICE")             //
      ("json", "Also write the table to this file as JSON", cxxopts::value<std::string>(), "FILE");
  return options;
}

int64_t size_in(const std::string& text, const std::string& flag) {
  const int64_t bytes = parse_bytes(text, flag);
  if (bytes == 0 || bytes % 4 != 0) {
    throw Error(ExitCode::usage, fmt::format("'{}' is not a size for {}", text, flag),
                "an element has 4 bytes: give a multiple of 4, at least 4");
  }
  return bytes;
}

std::vector<int64_t> sizes_from(const cxxopts::ParseResult& flags) {
  if (flags.count("sizes") == 0) {
    const int64_t min = size_in(flags["min"].as<std::string>(), "--min");
    const int64_t max = size_in(flags["max"].as<std::string>(), "--max");
    if (min > max) {
      throw Error(ExitCode::usage, fmt::format("--min {} is above --max {}", bytes_text(min), bytes_text(max)),
                  "give a --min that is at most --max");
    }
    return sweep_sizes(min, max, number_in(flags, "factor", 2, 1 << 20));
  }
  for (const char* flag : {"min", "max", "factor"}) {
    if (flags.count(flag) > 0) {
      throw Error(ExitCode::usage, fmt::format("--{} means nothing with --sizes", flag), "leave one of them out");
    }
  }
  const std::string list = flags["sizes"].as<std::string>();
  std::vector<int64_t> sizes;
  for (size_t at = 0; at <= list.size();) {
    const size_t end = std::min(list.find(',', at), list.size());
    sizes.push_back(size_in(list.substr(at, end - at), "--sizes"));
    at = end + 1;
  }
  return sizes;
}

Request request_from(const cxxopts::ParseResult& flags, int ranks) {
  if (!flags.unmatched().empty()) {
    throw Error(ExitCode::usage, fmt::format("'{}' is not a flag", flags.unmatched()[0]),
                "all flags: lockstep bench comm --help");
  }
  Request request;
  request.sizes = sizes_from(flags);
  if (flags.count("iterations") > 0) request.measuring.iterations = number_in(flags, "iterations", 1, 1'000'000);
  request.measuring.warmup = number_in(flags, "warmup", 1, 1'000'000);
  if (flags.count("check") > 0) request.measuring.check = AllreduceOptions::Check::all;
  if (flags.count("floor") > 0) {
    for (const std::string& text : flags["floor"].as<std::vector<std::string>>()) {
      const auto floors = parse_floors(text);
      request.floors.insert(request.floors.end(), floors.begin(), floors.end());
    }
  }
  check_floors_apply(request.floors, request.sizes, ranks);
  request.own_memory = flags.count("own-memory") > 0;
  if (flags.count("json") > 0) request.json = flags["json"].as<std::string>();
  return request;
}

// The buffer of the largest size, its pages touched. An all-reduce may take two more of its size for what it receives.
at::Tensor make_buffer(const World& world, int64_t bytes) {
  const double wanted = 3.0 * static_cast<double>(bytes) * world.local_size();
  const int64_t free = available_memory();
  if (wanted > static_cast<double>(free)) {
    throw Error(
        ExitCode::usage,
        fmt::format("all-reduces of {} need {:.1f} GB for {} ranks on {}, where {:.1f} GB are free", bytes_text(bytes),
                    wanted / 1e9, world.local_size(), world.host(), static_cast<double>(free) / 1e9),
        "give a smaller --max, or start fewer ranks on a host");
  }
  return at::zeros({bytes / 4}, at::kFloat);
}

void write_json(const Request& request, const BenchJob& job, const std::vector<AllreduceRow>& rows) {
  nlohmann::ordered_json json = {{"benchmark", "comm"}};
  json.update(job_json(job));
  json["warmup"] = request.measuring.warmup;
  json["own_memory"] = request.own_memory;
  json["rows"] = nlohmann::ordered_json::array();
  for (const AllreduceRow& row : rows) json["rows"].push_back(allreduce_json(row));
  write_durably(request.json, json.dump(2) + "\n");
}

void check_sums(const std::vector<AllreduceRow>& rows) {
  for (const AllreduceRow& row : rows) {
    if (row.wrong == 0) continue;
    throw Error(ExitCode::internal,
                fmt::format("{} elements of all-reduces of {} were not the sum", row.wrong, bytes_text(row.bytes)),
                "do not train on this machine; see whether the same size fails again, and report it with the versions");
  }
}

int bench_comm(World& world, const Request& request, const at::Tensor& buffer) {
  const BenchJob job = bench_job(world);
  const auto say = [&](const std::string& text) {
    if (world.rank() != 0) return;
    std::fputs(text.c_str(), stdout);
    std::fflush(stdout);
  };
  say(job_header(job, "lockstep bench comm: all-reduce in place, ours beside plain MPI_Allreduce"));
  if (world.size() == 1) say("# one rank: nothing is sent, and busbw is 0 by definition\n");
  say(allreduce_columns());

  PlainMpi plain(world);
  std::vector<AllreduceRow> rows;
  for (const int64_t bytes : request.sizes) {
    rows.push_back(measure_allreduce(world, plain, buffer.narrow(0, 0, bytes / 4), request.measuring));
    say(allreduce_line(rows.back()));
  }
  world.together([&] {
    if (world.rank() == 0 && !request.json.empty()) write_json(request, job, rows);
    check_sums(rows);
    check_floors(request.floors, rows);
  });
  return 0;
}

}  // namespace

int bench_comm_command(const Words& words) {
  cxxopts::Options options = comm_options();
  if (wants_help(words)) {
    parse(options, words);
    return 0;
  }
  World world;
  return run_job(world, [&] {
    Request request;
    at::Tensor buffer;
    DeviceWish device = DeviceWish::cpu;
    std::optional<cxxopts::ParseResult> flags;
    agree_on_command(world, "bench comm");
    world.together([&] {
      flags = parse(options, words);
      request = request_from(*flags, world.size());
      device = device_wish((*flags)["device"].as<std::string>());
      buffer = make_buffer(world, *std::max_element(request.sizes.begin(), request.sizes.end()));
      // A file that cannot be written is found out now and not after the sweep.
      if (world.rank() == 0 && !request.json.empty()) AppendFile(request.json, AppendFile::Mode::append);
    });
    agree_on_flags(world, *flags,
                   {"min", "max", "factor", "sizes", "iterations", "warmup", "check", "own-memory", "device"});
    world.choose_device(device);
    if (!request.own_memory) share_storage(world, buffer);
    return bench_comm(world, request, buffer.to(world.device()));
  });
}

}  // namespace lockstep
