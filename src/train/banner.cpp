#include "train/banner.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "lockstep/cifar10.h"
#include "lockstep/error.h"
#include "lockstep/version.h"
#include "lockstep/world.h"
#include "log/text.h"
#include "train/gradients.h"
#include "world/observe.h"

namespace lockstep {
namespace {

// What --recipe says by itself, if it is one that can be read: of a run that goes on it is not.
std::optional<Settings> settings_of(const std::string& recipe) {
  try {
    return load_recipe(recipe);
  } catch (const Error&) {
    return std::nullopt;
  }
}

// "optim.lr = 0.02, train.epochs = 3": what is not as in the recipe, but for what other rows say.
std::string changes_of(const Settings& settings, const Settings& recipe) {
  std::string text;
  const auto before = setting_values(recipe), now = setting_values(settings);
  for (size_t i = 0; i < now.size(); ++i) {
    if (now[i] == before[i] || now[i].first == "data.dir") continue;
    text += fmt::format("{}{} = {}", text.empty() ? "" : ", ", now[i].first, now[i].second);
  }
  return text;
}

int64_t values_in(const NamedTensors& parameters) {
  int64_t total = 0;
  for (const auto& [name, tensor] : parameters) total += tensor.numel();
  return total;
}

// Equal ones once: "cuda:0 (H100) on rank 0, cuda:1 (H100) on rank 1", "cpu".
std::string devices_text(const std::vector<std::string>& devices) {
  if (std::all_of(devices.begin(), devices.end(), [&](const auto& text) { return text == devices[0]; })) {
    return devices[0];
  }
  constexpr size_t kMost = 16;
  std::vector<std::string> parts;
  for (size_t i = 0; i < std::min(devices.size(), kMost); ++i) {
    parts.push_back(fmt::format("{} on rank {}", devices[i], i));
  }
  if (devices.size() > kMost) parts.push_back(fmt::format("and {} more", devices.size() - kMost));
  return fmt::format("{}", fmt::join(parts, ", "));
}

std::string how_it_computes(const Settings& settings, bool gpu) {
  std::string text = settings.train_precision == "bf16" ? ", bf16 where that is safe" : ", fp32";
  if (gpu) text += settings.train_tf32 ? " with TF32" : " without TF32";
  if (settings.train_memory_format == "channels_last") text += ", channels_last";
  if (gpu && records_steps(settings)) text += ", steps as CUDA graphs";
  return text;
}

}  // namespace

std::string banner(World& world, const Settings& settings, const Plan& plan, const NamedTensors& parameters,
                   const Cifar10& train_set, const Cifar10& test_set, const BannerFacts& facts) {
  const auto hosts = world.all_gather(world.host());
  const auto threads = world.all_gather(fmt::format("{} (of {} cores)", world.threads(), world.cores()));
  const auto devices = world.all_gather(world.device_text());
  const auto oversubscribed = world.all_gather(world.threads() > world.cores() ? "x" : "");
  if (world.rank() != 0) return "";

  const std::size_t columns = facts.columns;
  const std::string synthetic = train_set.synthetic() || test_set.synthetic() ? "SYNTHETIC " : "";
  const bool same_threads =
      std::all_of(threads.begin(), threads.end(), [&](const auto& text) { return text == threads[0]; });
  std::string text = fmt::format("lockstep {} · recipe {}\n", version(), facts.recipe);
  const auto row = [&](const char* name, const std::string& value) {
    constexpr size_t kValue = 12;  // where values begin
    text += fmt::format("{}\n", fmt::join(wrapped(fmt::format("  {:<9} {}", name, value), columns, kValue), "\n"));
  };
  row("ranks", fmt::format("{} on {} host{} ({})", world.size(), world.hosts(), world.hosts() == 1 ? "" : "s",
                           hosts_text(hosts)));
  row("threads", (same_threads ? threads[0] : fmt::format("{}", fmt::join(threads, ", "))) + " a rank");
  if (std::find(oversubscribed.begin(), oversubscribed.end(), "x") != oversubscribed.end()) {
    row("warning",
        "more threads than cores on a rank: slower than fewer threads (see --threads, and mpirun's --bind-to)");
  }
  row("device", devices_text(devices) + how_it_computes(settings, world.device().is_cuda()));
  if (const std::string meeting = meeting_place(world); !meeting.empty()) row("meeting", meeting);
  row("data", fmt::format("{}{}: {} training and {} test images", synthetic, train_set.folder(),
                          grouped(train_set.size()), grouped(test_set.size())));
  row("batch", fmt::format("{} images a step, {} on each rank{}", plan.global_batch,
                           plan.most_per_rank == plan.least_per_rank
                               ? fmt::format("{}", plan.most_per_rank)
                               : fmt::format("{} or {}", plan.most_per_rank, plan.least_per_rank),
                           plan.accumulate > 1 ? fmt::format(", in {} passes a shard", plan.accumulate) : ""));
  if (settings.train_virtual_ranks > 0) {
    row("shards", fmt::format("{} virtual ranks, {} on each rank: same bits, ≈ {:.0f} % slower", plan.shards,
                              plan.shards_per_rank, std::max(0.0, 100 * facts.virtual_ranks_slower)));
  } else if (world.size() > 1) {
    row("gradients", fmt::format("averaged in buckets of {} bytes, {} backward{}", grouped(settings.ddp_bucket_bytes),
                                 world.device().is_cuda() ? "by NCCL beside"
                                 : facts.overlap          ? "travelling during"
                                                          : "moved on after",
                                 settings.ddp_wire == "bf16" ? ", sent as bf16" : ""));
  }
  row("steps", fmt::format("{} an epoch, {} in all", grouped(plan.steps_per_epoch), grouped(plan.total_steps)));
  row("rate", fmt::format("{}{} ({}, momentum {}{}, weight decay {})", settings.optim_lr,
                          settings.optim_schedule == "constant" ? "" : " at its peak, " + settings.optim_schedule,
                          settings.optim_name, settings.optim_momentum, settings.optim_nesterov ? " Nesterov" : "",
                          settings.optim_weight_decay));
  if (facts.divided)
    row("updates", fmt::format("of filters divided among {} ranks, each sends what it made", world.size()));
  row("run", facts.out);
  if (!facts.fault.empty()) row("FAULT", facts.fault + " (planted by LOCKSTEP_FAULT)");
  row("network", fmt::format("{}, {} parameters", settings.model_name, grouped(values_in(parameters))));
  if (const auto recipe = settings_of(facts.recipe)) {
    const std::string changes = changes_of(settings, *recipe);
    row("settings", changes.empty() ? "all as in the recipe; config.toml has them"
                                    : changes + "; others as in the recipe, all in config.toml");
  }
  return text;
}

}  // namespace lockstep
