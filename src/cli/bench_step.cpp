#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "bench/job.h"
#include "bench/step.h"
#include "cli/options.h"
#include "cli/report.h"
#include "lockstep/model.h"
#include "lockstep/net.h"
#include "lockstep/world.h"
#include "store/files.h"
#include "train/device_path.h"

namespace lockstep {
namespace {

cxxopts::Options step_options() {
  cxxopts::Options options("lockstep bench step",
                           "A training step: its phases, how much communication is hidden, and its operators.\n");
  options.custom_help("[FLAGS]").add_options()                                                       //
      ("layers", "Linear layers", cxxopts::value<int64_t>()->default_value("32"), "N")               //
      ("width", "Inputs and outputs of each", cxxopts::value<int64_t>()->default_value("256"), "N")  //
      ("model", "A network of a recipe, on made-up images, in place of the linear layers",
       cxxopts::value<std::string>(), "NAME")  //
      ("memory-format", "With --model: contiguous or channels_last",
       cxxopts::value<std::string>()->default_value("contiguous"), "FORMAT")                                //
      ("precision", "fp32, or bf16: autocast", cxxopts::value<std::string>()->default_value("fp32"), "P")   //
      ("profile", "Also the operators that the time goes to")                                               //
      ("batch", "Rows on each rank (default: 512; images: 64)", cxxopts::value<int64_t>(), "N")             //
      ("steps", "Timed steps of each way", cxxopts::value<int64_t>()->default_value("20"), "N")             //
      ("bucket-bytes", "As ddp.bucket_bytes", cxxopts::value<int64_t>()->default_value("262144"), "BYTES")  //
      ("threads", "LibTorch's threads on each rank (default: its cores, shared fairly)",
       cxxopts::value<int64_t>()->default_value("0"), "N")                                             //
      ("device", "auto, cpu or cuda", cxxopts::value<std::string>()->default_value("auto"), "DEVICE")  //
      ("json", "Also write the figures to this file as JSON", cxxopts::value<std::string>(), "FILE");
  return options;
}

// Of the flag's value; one of `allowed`.
std::string word_in(const cxxopts::ParseResult& flags, const char* flag, const std::vector<std::string>& allowed) {
  std::string value = flags[flag].as<std::string>();
  if (std::find(allowed.begin(), allowed.end(), value) == allowed.end()) {
    throw Error(ExitCode::usage, fmt::format("--{} does not know '{}'", flag, value),
                fmt::format("allowed: {}", fmt::join(allowed, ", ")));
  }
  return value;
}

struct Workload {
  std::string model;  // empty: linear layers
  std::string memory_format;
  std::string precision;
};

void take_workload(const cxxopts::ParseResult& flags, const World& world, Workload& workload, StepOptions& options) {
  workload.memory_format = word_in(flags, "memory-format", {"contiguous", "channels_last"});
  workload.precision = word_in(flags, "precision", {"fp32", "bf16"});
  options.around_forward = [&world, &workload] {
    return std::make_shared<Autocast>(world.device(), workload.precision);
  };
  if (flags.count("model") == 0) {
    if (workload.memory_format == "channels_last") {
      throw Error(ExitCode::usage, "--memory-format means nothing for linear layers", "add --model sjnet");
    }
    return;
  }
  workload.model = word_in(flags, "model", net_names());
  options.channels_last = workload.memory_format == "channels_last";
  options.image_net = [&world, &workload] {
    std::shared_ptr<Net> net = make_net(workload.model);
    move_net(*net, world.device(), workload.memory_format);
    return net;
  };
}

std::string title_of(const Workload& workload, const StepOptions& options, int threads) {
  const std::string net = workload.model.empty()
                              ? fmt::format("{} linear layers of {}x{}, {} rows", options.layers, options.width,
                                            options.width, options.batch)
                              : fmt::format("{}, {}, {} images", workload.model, workload.memory_format, options.batch);
  return fmt::format("lockstep bench step: {} and {} threads a rank, {}", net, threads, workload.precision);
}

void write_json(const std::string& path, const BenchJob& job, const Workload& workload, const StepOptions& options,
                const StepTimes& times) {
  const auto ms = [](const Summary& summary) {
    return nlohmann::ordered_json{{"p50", summary.p50}, {"p95", summary.p95}};
  };
  const auto share = [](const std::optional<double>& of) {
    return of ? nlohmann::ordered_json(*of) : nlohmann::ordered_json();
  };
  nlohmann::ordered_json json = {{"benchmark", "step"}};
  json.update(job_json(job));
  if (workload.model.empty()) {
    json.update({{"layers", options.layers}, {"width", options.width}});
  } else {
    json.update({{"model", workload.model}, {"memory_format", workload.memory_format}});
  }
  json.update({{"precision", workload.precision},
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
               {"unsent_ms", times.unsent ? ms(*times.unsent) : nlohmann::ordered_json()},
               {"speed_blocking", share(times.speed_blocking)},
               {"speed_in_buckets", share(times.speed_in_buckets)},
               {"speed_overlapped", share(times.speed_overlapped)},
               {"speed_unsent", share(times.speed_unsent)}});
  const auto put = [&](const std::string& name, const std::optional<Estimate>& of) {
    json[name] = of ? nlohmann::ordered_json(of->value) : nlohmann::ordered_json();
    json[name + "_range"] = of ? nlohmann::ordered_json({of->low, of->high}) : nlohmann::ordered_json();
  };
  put("sending_in_buckets", times.sending_in_buckets);
  put("sending_overlapped", times.sending_overlapped);
  put("hidden_in_buckets", times.hidden_in_buckets);
  put("hidden_overlapped", times.hidden_overlapped);
  if (options.profile) {
    double all_s = 0;
    for (const OperatorTime& one : times.operators) all_s += one.self_s;
    json["operators"] = nlohmann::ordered_json::array();
    const auto steps = static_cast<double>(options.steps);
    for (const OperatorTime& one : times.operators) {
      json["operators"].push_back({{"name", one.name},
                                   {"calls_per_step", static_cast<double>(one.calls) / steps},
                                   {"self_ms_per_step", 1e3 * one.self_s / steps},
                                   {"share", one.self_s / all_s}});
    }
  }
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
    Workload workload;
    std::string json;
    DeviceWish device = DeviceWish::cpu;
    std::optional<cxxopts::ParseResult> flags;
    agree_on_command(world, "bench step");
    world.together([&] {
      flags = parse(cli, words);
      device = device_wish((*flags)["device"].as<std::string>());
      if (!flags->unmatched().empty()) {
        throw Error(ExitCode::usage, fmt::format("'{}' is not a flag", flags->unmatched()[0]),
                    "all flags: lockstep bench step --help");
      }
      options.layers = number_in(*flags, "layers", 1, 1000);
      options.width = number_in(*flags, "width", 1, 16384);
      take_workload(*flags, world, workload, options);
      if (!workload.model.empty()) options.batch = 64;
      if (flags->count("batch") > 0) options.batch = number_in(*flags, "batch", 1, 1'000'000);
      options.profile = flags->count("profile") > 0;
      options.steps = number_in(*flags, "steps", 1, 1'000'000);
      options.bucket_bytes = number_in(*flags, "bucket-bytes", 1, int64_t{1} << 40);
      world.set_threads(static_cast<int>(number_in(*flags, "threads", 0, 4096)));
      if (flags->count("json") > 0) json = (*flags)["json"].as<std::string>();
      if (world.rank() == 0 && !json.empty()) AppendFile(json, AppendFile::Mode::append);
    });
    agree_on_flags(world, *flags,
                   {"layers", "width", "model", "memory-format", "precision", "profile", "batch", "steps",
                    "bucket-bytes", "device"});
    world.choose_device(device);
    const BenchJob job = bench_job(world);
    const StepTimes times = measure_step(world, options);
    world.together([&] {
      if (world.rank() != 0) return;
      std::fputs((job_header(job, title_of(workload, options, world.threads())) + step_table(times)).c_str(), stdout);
      if (options.profile) std::fputs(operators_table(times.operators, options.steps).c_str(), stdout);
      if (!json.empty()) write_json(json, job, workload, options, times);
    });
    return 0;
  });
}

}  // namespace lockstep
