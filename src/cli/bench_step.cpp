#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "bench/job.h"
#include "bench/step.h"
#include "cli/options.h"
#include "cli/report.h"
#include "lockstep/world.h"
#include "store/files.h"

namespace lockstep {
namespace {

cxxopts::Options step_options() {
  cxxopts::Options options("lockstep bench step",
                           "A step of a network of linear layers: its phases, and how much communication is hidden.\n");
  options.custom_help("[FLAGS]").add_options()                                                              //
      ("layers", "Linear layers", cxxopts::value<int64_t>()->default_value("32"), "N")                      //
      ("width", "Inputs and outputs of each", cxxopts::value<int64_t>()->default_value("256"), "N")         //
      ("batch", "Rows on each rank", cxxopts::value<int64_t>()->default_value("512"), "N")                  //
      ("steps", "Timed steps of each way", cxxopts::value<int64_t>()->default_value("20"), "N")             //
      ("bucket-bytes", "As ddp.bucket_bytes", cxxopts::value<int64_t>()->default_value("262144"), "BYTES")  //
      ("threads", "LibTorch's threads on each rank (default: its cores, shared fairly)",
       cxxopts::value<int64_t>()->default_value("0"), "N")                                             //
      ("device", "auto, cpu or cuda", cxxopts::value<std::string>()->default_value("auto"), "DEVICE")  //
      ("json", "Also write the figures to this file as JSON", cxxopts::value<std::string>(), "FILE");
  return options;
}

int64_t number_in(const cxxopts::ParseResult& flags, const char* flag, int64_t least, int64_t most) {
  const int64_t value = flags[flag].as<int64_t>();
  if (value < least || value > most) {
    throw Error(ExitCode::usage, fmt::format("--{} {} is out of range", flag, value),
                fmt::format("allowed: from {} to {}", least, most));
  }
  return value;
}

void write_json(const std::string& path, const BenchJob& job, const StepOptions& options, const StepTimes& times) {
  const auto ms = [](const Summary& summary) {
    return nlohmann::ordered_json{{"p50", summary.p50}, {"p95", summary.p95}};
  };
  nlohmann::ordered_json json = {{"benchmark", "step"}};
  json.update(job_json(job));
  json.update({{"layers", options.layers},
               {"width", options.width},
               {"batch", options.batch},
               {"steps", options.steps},
               {"bucket_bytes", options.bucket_bytes},
               {"gradient_bytes", times.gradient_bytes},
               {"forward_ms", ms(times.forward)},
               {"backward_ms", ms(times.backward)},
               {"optimizer_ms", ms(times.optimizer)},
               {"synchronised_ms", ms(times.synchronised)},
               {"blocking_ms", ms(times.blocking)},
               {"in_buckets_ms", ms(times.in_buckets)},
               {"overlapped_ms", ms(times.overlapped)},
               {"hidden_in_buckets", times.hidden_in_buckets},
               {"hidden_overlapped", times.hidden_overlapped}});
  write_durably(path, json.dump(2) + "\n");
}

}  // namespace

int bench_step_command(const Words& words) {
  cxxopts::Options cli = step_options();
  if (wants_help(words)) {
    parse(cli, words);
    return 0;
  }
  World world;
  return run_job(world, [&] {
    StepOptions options;
    std::string json;
    DeviceWish device = DeviceWish::cpu;
    world.together([&] {
      const auto flags = parse(cli, words);
      device = device_wish((*flags)["device"].as<std::string>());
      if (!flags->unmatched().empty()) {
        throw Error(ExitCode::usage, fmt::format("'{}' is not a flag", flags->unmatched()[0]),
                    "all flags: lockstep bench step --help");
      }
      options.layers = number_in(*flags, "layers", 1, 1000);
      options.width = number_in(*flags, "width", 1, 16384);
      options.batch = number_in(*flags, "batch", 1, 1'000'000);
      options.steps = number_in(*flags, "steps", 1, 1'000'000);
      options.bucket_bytes = number_in(*flags, "bucket-bytes", 1, int64_t{1} << 40);
      world.set_threads(static_cast<int>(number_in(*flags, "threads", 0, 4096)));
      if (flags->count("json") > 0) json = (*flags)["json"].as<std::string>();
      if (world.rank() == 0 && !json.empty()) AppendFile(json, AppendFile::Mode::append);
    });
    world.choose_device(device);
    const BenchJob job = bench_job(world);
    const StepTimes times = measure_step(world, options);
    world.together([&] {
      if (world.rank() != 0) return;
      const std::string title =
          fmt::format("lockstep bench step: {} linear layers of {}x{}, {} rows and {} threads a rank", options.layers,
                      options.width, options.width, options.batch, world.threads());
      std::fputs((job_header(job, title) + step_table(times)).c_str(), stdout);
      if (!json.empty()) write_json(json, job, options, times);
    });
    return 0;
  });
}

}  // namespace lockstep
