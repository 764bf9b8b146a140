#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <exception>
#include <optional>

#include "cli/data_folder.h"
#include "cli/options.h"
#include "cli/report.h"
#include "lockstep/settings.h"
#include "lockstep/trainer.h"
#include "lockstep/world.h"
#include "train/seeds.h"
#include "train/synonyms.h"

namespace lockstep {
namespace {

cxxopts::Options train_options() {
  cxxopts::Options options("lockstep train",
                           "Trains a network on CIFAR-10; under mpirun or srun on all ranks together.\n");
  options.add_options()  //
      ("recipe", "A recipe's name, or a TOML file", cxxopts::value<std::string>()->default_value("tutorial"),
       "NAME|FILE")  //
      ("data-dir", "Folder of the .bin files, or its parent (default: $LOCKSTEP_DATA, data, ../shared/data)",
       cxxopts::value<std::string>(), "DIR")                                                        //
      ("out", "Run folder (default: runs/RECIPE-DATE-TIME)", cxxopts::value<std::string>(), "DIR")  //
      ("overwrite", "Replace the run that --out holds")                                             //
      ("resume",
       "Go on: with the run --out if it has a checkpoint (auto), or from a run's newest one, or from this one",
       cxxopts::value<std::string>(), "auto|RUN|FILE")                                 //
      ("epochs", "As --set train.epochs=N", cxxopts::value<std::string>(), "N")        //
      ("max-steps", "As --set train.max_steps=N", cxxopts::value<std::string>(), "N")  //
      ("seed", "As --set train.seed=N", cxxopts::value<std::string>(), "N")            //
      ("seeds", "Train so often, from train.seed and the seeds after it, into OUT/seed-S; says mean and deviation",
       cxxopts::value<int64_t>(), "N")  //
      ("batch-per-rank", "Sets train.global_batch to N times the ranks; says --lr-scale too", cxxopts::value<int64_t>(),
       "N")                                                                                               //
      ("lr-scale", "With --batch-per-rank: none, linear or sqrt", cxxopts::value<std::string>(), "RULE")  //
      ("threads", "LibTorch's threads on each rank (default: its cores, shared fairly)",
       cxxopts::value<int>()->default_value("0"), "N")  //
      ("device", "auto, cpu or cuda; auto: a GPU for each rank where there are some",
       cxxopts::value<std::string>()->default_value("auto"), "DEVICE")  //
      ("interface", "With GPUs: the network interface on which ranks find each other", cxxopts::value<std::string>(),
       "NAME")                                                                                                  //
      ("set", "Any setting; may be repeated", cxxopts::value<std::vector<std::string>>(), "SECTION.KEY=VALUE")  //
      ("trace", "A timeline of some steps in Chrome's trace format, one lane a rank (open it in ui.perfetto.dev)",
       cxxopts::value<std::string>(), "FILE")  //
      ("trace-steps", "With --trace: the steps", cxxopts::value<std::string>()->default_value("11:20"),
       "FIRST:LAST")  //
      ("quiet", "Print nothing but warnings and errors");
  return options;
}

std::string settings_help() {
  std::string text = "\nSettings (--set, recipes, config.toml):\n";
  for (const SettingHelp& setting : setting_help()) {
    text += fmt::format("  {:<22} {}; {}\n", setting.name, setting.text, setting.allowed);
  }
  return text;
}

// --batch-per-rank N is train.global_batch said the other way round; what the rate does then must be said too.
void scale_batch(Settings& settings, int64_t batch_per_rank, int world_size) {
  if (batch_per_rank < 1 || batch_per_rank > 1'000'000) {
    throw Error(ExitCode::usage, fmt::format("--batch-per-rank {} is out of range", batch_per_rank),
                "allowed: from 1 to 1000000");
  }
  const double factor =
      static_cast<double>(batch_per_rank * world_size) / static_cast<double>(settings.train_global_batch);
  apply_setting(settings, fmt::format("train.global_batch={}", batch_per_rank * world_size));
  for (double* lr : {&settings.optim_lr, &settings.optim_bias_lr, &settings.optim_head_lr}) {
    if (settings.optim_lr_scale == "linear") *lr *= factor;
    if (settings.optim_lr_scale == "sqrt") *lr *= std::sqrt(factor);
  }
  // The rate now is what it is: config.toml gives it again without scaling it twice.
  settings.optim_lr_scale = "none";
}

// `before`: of the run that goes on, if one does.
TrainRequest request_from(const cxxopts::ParseResult& flags, int world_size, const std::optional<Settings>& before) {
  TrainRequest request;
  request.recipe = flags["recipe"].as<std::string>();
  const bool as_before = before && flags.count("recipe") == 0;
  request.settings = as_before ? *before : load_recipe(request.recipe);
  if (as_before) request.recipe = "that of the run";
  Settings& settings = request.settings;
  if (flags.count("set") > 0) {
    for (const std::string& assignment : flags["set"].as<std::vector<std::string>>())
      apply_setting(settings, assignment);
  }
  for (const auto& [flag, setting] : {std::pair{"epochs", "train.epochs"}, std::pair{"max-steps", "train.max_steps"},
                                      std::pair{"seed", "train.seed"}, std::pair{"lr-scale", "optim.lr_scale"}}) {
    if (flags.count(flag) > 0) apply_setting(settings, fmt::format("{}={}", setting, flags[flag].as<std::string>()));
  }
  if (flags.count("batch-per-rank") > 0) {
    if (flags.count("lr-scale") == 0) {
      throw Error(ExitCode::usage, "--batch-per-rank changes the global batch with the number of ranks",
                  "say what the learning rate does then: --lr-scale none, linear or sqrt");
    }
    scale_batch(settings, flags["batch-per-rank"].as<int64_t>(), world_size);
  } else if (flags.count("lr-scale") > 0) {
    throw Error(ExitCode::usage, "--lr-scale means nothing without --batch-per-rank",
                "add --batch-per-rank N, or set optim.lr");
  }
  if (flags.count("data-dir") > 0) settings.data_dir = flags["data-dir"].as<std::string>();
  settings.data_dir = data_folder(settings.data_dir);
  if (flags.count("out") > 0) request.out = flags["out"].as<std::string>();
  if (flags.count("resume") > 0) request.resume = flags["resume"].as<std::string>();
  request.stop_on_signals = true;
  request.overwrite = flags.count("overwrite") > 0;
  request.quiet = flags.count("quiet") > 0;
  if (flags.count("trace") > 0) request.trace = flags["trace"].as<std::string>();
  const std::string steps = flags["trace-steps"].as<std::string>();
  char rest = 0;
  if (std::sscanf(steps.c_str(), "%ld:%ld%c", &request.trace_first, &request.trace_last, &rest) != 2 ||
      request.trace_first < 1 || request.trace_last < request.trace_first) {
    throw Error(ExitCode::usage, fmt::format("--trace-steps {} is not a range of steps", steps),
                "for instance --trace-steps 11:20; steps count from 1");
  }
  if (!flags.unmatched().empty()) {
    const std::string& word = flags.unmatched()[0];
    const size_t equals = word.find('=');  // "lr=0.1"
    const std::string meant = equals == std::string::npos ? "" : setting_meant(word.substr(0, equals));
    throw Error(ExitCode::usage, fmt::format("'{}' is not a flag", word),
                (meant.empty() ? "" : fmt::format("write --set {}{}; ", meant, word.substr(equals))) +
                    "all flags: lockstep train --help");
  }
  return request;
}

// What a start may take by the settings that are known before MPI has started. What is wrong with them is told later.
double start_deadline_s(const Words& words) {
  try {
    cxxopts::Options options = train_options();
    return kPatience * request_from(*parse(options, words), 1, std::nullopt).settings.watch_deadline_s;
  } catch (const std::exception&) {
    return kPatience * Settings().watch_deadline_s;
  }
}

}  // namespace

int train_command(const Words& words) {
  cxxopts::Options options = train_options();
  if (wants_help(words)) {
    parse(options, words, settings_help());
    return 0;
  }
  const double deadline_s = start_deadline_s(words);
  World world({.deadline_s = deadline_s, .start_deadline_s = deadline_s});
  return run_job(world, [&] {
    TrainRequest request;
    DeviceWish device = DeviceWish::cpu;
    std::string interface;
    std::optional<int64_t> seeds;
    std::string resume;
    std::string out;
    std::optional<cxxopts::ParseResult> flags;
    agree_on_command(world, "train");
    world.together([&] {
      flags = parse(options, words);
      if (flags->count("resume") > 0) resume = (*flags)["resume"].as<std::string>();
      if (flags->count("out") > 0) out = (*flags)["out"].as<std::string>();
    });
    agree_on_flags(world, *flags, {"device", "seeds"});
    const std::optional<Settings> before = settings_to_resume(world, resume, out);
    world.together([&] {
      device = device_wish((*flags)["device"].as<std::string>());
      if (flags->count("interface") > 0) interface = (*flags)["interface"].as<std::string>();
      if (flags->count("seeds") > 0) seeds = (*flags)["seeds"].as<int64_t>();
      const int threads = (*flags)["threads"].as<int>();
      if (threads < 0 || threads > 4096) {
        throw Error(ExitCode::usage, fmt::format("--threads {} is out of range", threads),
                    "allowed: from 0 (automatic) to 4096");
      }
      request = request_from(*flags, world.size(), before);
      // Bits depend on the threads of a rank; with virtual ranks they shall not depend on the machine's cores.
      world.set_threads(threads == 0 && request.settings.train_virtual_ranks > 0 ? 1 : threads);
    });
    world.choose_device(device, interface);
    const auto end = seeds ? train_seeds(world, request, *seeds) : train(world, request).end;
    switch (end) {
      case TrainResult::End::stopped:
        return static_cast<int>(ExitCode::stopped);
      case TrainResult::End::done:
      case TrainResult::End::interrupted:
        break;
    }
    return 0;
  });
}

}  // namespace lockstep
