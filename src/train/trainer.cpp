// The step loop: reads from top to bottom as a run goes. "All ranks" and "rank 0" mark what is collective and what is
// not.
#include "lockstep/trainer.h"

#include <ATen/Context.h>
#include <fmt/format.h>
#include <torch/optim/sgd.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <optional>

#include "ddp/agreement.h"
#include "lockstep/audit.h"
#include "lockstep/cifar10.h"
#include "lockstep/model.h"
#include "lockstep/net.h"
#include "lockstep/sampler.h"
#include "lockstep/weights.h"
#include "lockstep/world.h"
#include "train/banner.h"
#include "train/batches.h"
#include "train/device_path.h"
#include "train/fault.h"
#include "train/gradients.h"
#include "train/plan.h"
#include "train/run_folder.h"
#include "train/run_log.h"
#include "train/step_clock.h"
#include "train/trace_file.h"
#include "world/process_clock.h"

namespace lockstep {
namespace {

// Images over seconds of an interval, evaluation and saving left out.
class Speed {
 public:
  void add(int64_t images) { images_ += images; }
  void pause() { spent_ += since_start(); }
  void resume() { started_ = Clock::now(); }
  double images_per_s() const { return static_cast<double>(images_) / std::max(1e-9, spent_ + since_start()); }
  void restart() {
    images_ = 0;
    spent_ = 0;
    resume();
  }

 private:
  using Clock = std::chrono::steady_clock;
  double since_start() const { return std::chrono::duration<double>(Clock::now() - started_).count(); }

  Clock::time_point started_ = Clock::now();
  int64_t images_ = 0;
  double spent_ = 0;
};

torch::optim::SGD make_optimizer(const Settings& settings, const Net& net) {
  return torch::optim::SGD(net.parameters(), torch::optim::SGDOptions(settings.optim_lr)
                                                 .momentum(settings.optim_momentum)
                                                 .nesterov(settings.optim_nesterov)
                                                 .weight_decay(settings.optim_weight_decay));
}

int64_t count_parameters(const Net& net) {
  int64_t count = 0;
  for (const at::Tensor& parameter : net.parameters()) count += parameter.numel();
  return count;
}

// Parameters and what the optimizer keeps for them: what all replicas must hold alike.
NamedTensors replica_state(const Net& net, const torch::optim::SGD& optimizer) {
  NamedTensors state = state_dict(net);
  for (const auto& parameter : net.named_parameters()) {
    const auto kept = optimizer.state().find(parameter.value().unsafeGetTensorImpl());
    if (kept == optimizer.state().end()) continue;
    const auto& sgd = static_cast<const torch::optim::SGDParamState&>(*kept->second);
    if (sgd.momentum_buffer().defined()) state.emplace_back("momentum of " + parameter.key(), sgd.momentum_buffer());
  }
  return state;
}

// The planted fault `flip`: the lowest bit of the first value of the last parameter.
void flip_a_bit(Net& net) {
  const c10::NoGradGuard no_grad;
  at::Tensor last = net.parameters().back();
  at::Tensor copy = last.detach().cpu().clone();
  static_cast<unsigned char*>(copy.data_ptr())[0] ^= 1U;
  last.copy_(copy);
}

// Everything that must be the same on all ranks; folders may differ from host to host.
std::vector<std::string> settings_to_agree_on(const Settings& settings) {
  std::vector<std::string> lines;
  for (const auto& [name, value] : setting_values(settings)) {
    if (name != "data.dir") lines.push_back(fmt::format("{} = {}", name, value));
  }
  return lines;
}

}  // namespace

TrainResult train(World& world, const TrainRequest& request) {
  const Settings& settings = request.settings;
  const bool first_rank = world.rank() == 0;

  // All ranks: everything that can be wrong is looked at before anything is written.
  std::optional<Cifar10> train_set;
  std::optional<Cifar10> test_set;
  std::optional<DistributedSampler> sampler;
  std::optional<Fault> fault;
  Plan plan;
  std::shared_ptr<Net> net;
  world.together([&] {
    check_settings(settings);
    fault.emplace(world.rank());
    const std::string folder = Cifar10::find(settings.data_dir);
    train_set = Cifar10::open(folder, Cifar10::Split::train);
    test_set = Cifar10::open(folder, Cifar10::Split::test);
    plan = make_plan(settings, world.size(), train_set->size());
    // The plan's images of an epoch are the permutation of all ranks, padded where it says so.
    sampler.emplace(DistributedSampler::Options{
        .size = train_set->size(),
        .world_size = plan.padded ? world.size() : 1,
        .rank = 0,
        .shuffle = settings.data_shuffle,
        .seed = static_cast<uint64_t>(settings.data_seed >= 0 ? settings.data_seed : settings.train_seed)});
    at::manual_seed(static_cast<uint64_t>(settings.train_seed));
    net = make_net(settings.model_name);
    set_up_device(settings);
    move_net(*net, world.device(), settings.train_memory_format);
  });

  agree(world, "settings", settings_to_agree_on(settings));
  world.set_deadline(settings.watch_deadline_s);

  // Rank 0 owns the run folder.
  TrainResult result;
  std::optional<RunLog> log;
  world.together([&] {
    if (!first_rank) return;
    result.out = request.out.empty() ? default_run_folder(request.recipe) : request.out;
    prepare_run_folder(result.out, request.overwrite, to_toml(settings));
    log.emplace(RunLog::Options{.folder = result.out,
                                .quiet = request.quiet,
                                .synthetic = train_set->synthetic() || test_set->synthetic(),
                                .epochs = settings.train_epochs,
                                .logs = settings.log_every_steps > 0,
                                .plan = plan,
                                .world_size = world.size()});
    log->start(world.size(), world.threads(), count_parameters(*net), world.device_text());
  });
  const bool as_on_a_gpu = world.device().is_cuda() || request.as_on_a_gpu;
  const Batches batches(
      *train_set, world.device(), as_on_a_gpu ? Batches::Where::device : Batches::Where::host,
      settings.train_memory_format == "channels_last" ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
  StepClock clock(world);
  Gradients gradients(
      world, net, settings, plan, clock,
      [&](std::span<const int64_t> indices, at::Tensor& images, at::Tensor& labels) {
        batches.load(indices, images, labels);
      },
      as_on_a_gpu ? Gradients::Reads::when_asked : Gradients::Reads::each_step);
  const double slower = settings.train_virtual_ranks > 0 ? gradients.cost_of_virtual_ranks() : 0;
  const std::string opening = banner(world, settings, plan, state_dict(*net), *train_set, *test_set,
                                     {.recipe = request.recipe,
                                      .out = result.out,
                                      .fault = fault->text(),
                                      .overlap = gradients.overlap(),
                                      .virtual_ranks_slower = slower});
  if (log) log->text(opening);
  torch::optim::SGD optimizer = make_optimizer(settings, *net);
  TraceFile trace(world, request.trace, request.trace_first, request.trace_last);

  std::string last_saved;
  const auto test = [&](int64_t epoch) {  // all ranks
    const auto started = std::chrono::steady_clock::now();
    gradients.check(last_saved);
    gradients.sync_buffers();
    const Autocast autocast(world.device(), settings.train_precision);
    result.last = evaluate(world, *net, *test_set, settings.eval_batch);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    if (log) log->test(result.steps, epoch, *result.last, seconds);
  };
  const auto save = [&](const std::string& name) {  // all ranks; rank 0 writes
    gradients.check(last_saved);
    gradients.sync_buffers();
    if (settings.ddp_audit_every > 0) audit_replicas(world, replica_state(*net, optimizer), result.steps);
    if (!first_rank) return;
    last_saved = fmt::format("{}/{}.pth", result.out, name);
    save_pth(last_saved, state_dict(*net));
    log->weights(last_saved);
  };

  Speed speed;
  for (int64_t epoch = 0; result.steps < plan.total_steps; ++epoch) {
    gradients.deal().begin_epoch(sampler->permutation(epoch));
    const int64_t steps = std::min(plan.steps_per_epoch, plan.total_steps - result.steps);
    for (int64_t i = 0; i < steps; ++i) {
      const int64_t step = result.steps + 1;
      trace.begin_step(step, clock);
      clock.step_begins();
      gradients.step(i, [&](at::Tensor& loss) {
        fault->in_step(step);
        if (fault->due(Fault::Kind::nan, step)) loss = loss * std::numeric_limits<double>::quiet_NaN();
      });
      clock.enter(StepClock::optimizer);
      gradients.clip(settings.train_clip_norm, step, i, last_saved);
      optimizer.step();
      if (fault->due(Fault::Kind::flip, step)) flip_a_bit(*net);
      clock.enter(StepClock::log);

      result.steps = step;
      speed.add(gradients.deal().images(i));
      if (log && step == 1) log->first_step(seconds_since_exec());
      if (settings.ddp_audit_every > 0 && step % settings.ddp_audit_every == 0) {
        gradients.check(last_saved);
        gradients.sync_buffers();
        audit_replicas(world, replica_state(*net, optimizer), step);
      }
      clock.step_ends();
      if (settings.log_every_steps > 0 && step % settings.log_every_steps == 0) {
        gradients.check(last_saved);
        const double mean = gradients.mean_loss();
        const StepFigures figures = clock.gather();
        if (log) log->train(step, epoch, mean, settings.optim_lr, speed.images_per_s(), figures);
        speed.restart();
      } else if (log) {
        log->step(step, epoch, speed.images_per_s());
      }
      trace.end_step(step, clock);
    }

    speed.pause();
    const bool whole_epoch = steps == plan.steps_per_epoch;
    const bool last = result.steps == plan.total_steps;
    const bool due =
        settings.eval_every_epochs > 0 && ((whole_epoch && (epoch + 1) % settings.eval_every_epochs == 0) || last);
    if (due) test(epoch);
    if (whole_epoch) save(fmt::format("{}_{}", settings.model_name, epoch));
    speed.resume();
  }
  const std::string untraced = trace.finish(clock);
  if (log && !untraced.empty()) log->text(untraced);
  save("final");
  if (log)
    log->end(result.steps, settings.train_max_steps > 0 && result.steps == settings.train_max_steps
                               ? "train.max_steps reached"
                               : "all epochs done");
  return result;
}

}  // namespace lockstep
