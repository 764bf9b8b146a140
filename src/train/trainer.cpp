// The step loop: reads from top to bottom as a run goes. "All ranks" and "rank 0" mark what is collective and what is
// not.
#include "lockstep/trainer.h"

#include <ATen/Context.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <limits>
#include <numeric>
#include <optional>

#include "ddp/module_state.h"
#include "lockstep/audit.h"
#include "lockstep/cifar10.h"
#include "lockstep/model.h"
#include "lockstep/net.h"
#include "lockstep/parameters.h"
#include "lockstep/sampler.h"
#include "lockstep/weights.h"
#include "lockstep/world.h"
#include "optim/division.h"
#include "optim/optimizer.h"
#include "store/checkpoint.h"
#include "train/banner.h"
#include "train/batches.h"
#include "train/device_path.h"
#include "train/fault.h"
#include "train/gradients.h"
#include "train/inputs.h"
#include "train/plan.h"
#include "train/resume.h"
#include "train/run_folder.h"
#include "train/run_log.h"
#include "train/run_state.h"
#include "train/saver.h"
#include "train/speed.h"
#include "train/step_clock.h"
#include "train/trace_file.h"
#include "train/tta.h"
#include "world/process_clock.h"
#include "world/stop_request.h"
#include "world/vote.h"

namespace lockstep {
namespace {

int64_t count_parameters(const Net& net) {
  int64_t count = 0;
  for (const at::Tensor& parameter : parameters(net)) count += parameter.numel();
  return count;
}

// The planted fault `flip`: the lowest bit of the first value of the last parameter.
void flip_a_bit(Net& net) {
  const c10::NoGradGuard no_grad;
  at::Tensor last = net.parameters().back();
  at::Tensor copy = last.detach().cpu().clone();
  static_cast<unsigned char*>(copy.data_ptr())[0] ^= 1U;
  last.copy_(copy);
}

// What a net is prepared with.
at::Tensor first_images(const Cifar10& set, int64_t count, const Augmentation& shown) {
  std::vector<int64_t> indices(static_cast<size_t>(std::min(count, set.size())));
  std::iota(indices.begin(), indices.end(), 0);
  at::Tensor images;
  at::Tensor labels;
  BatchPass(shown).load(set, indices, 0, images, labels);
  return images;
}

// Between ranks of one host an update is sent in less time than it is made. Over a network that depends on it, and on
// GPUs it has never run.
Division division(World& world, const Settings& settings) {
  const bool pays = world.hosts() == 1 && world.device().is_cpu();
  const bool on = settings.optim_divide == "on" || (settings.optim_divide == "auto" && pays);
  if (!on || settings.optim_name != "muon" || world.size() == 1) return {};
  return {.rank = world.rank(), .ranks = world.size(), .exchange = [&world](const std::vector<at::Tensor>& parts) {
            follow_each_rank(world, parts);
          }};
}

// What the watchdog was told goes with the run, however it ends.
struct DoingNothing {
  World& world;
  ~DoingNothing() { world.doing(nullptr, 0); }
};

}  // namespace

TrainResult train(World& world, const TrainRequest& request) {
  const Settings& settings = request.settings;
  const bool first_rank = world.rank() == 0;
  world.set_deadline(kPatience * settings.watch_deadline_s);
  const DoingNothing afterwards{world};
  world.doing("start", 0);
  const OwnStream stream(world.device());

  // All ranks: everything that can be wrong is looked at before anything is written.
  std::optional<Cifar10> train_set;
  std::optional<Cifar10> test_set;
  std::optional<DistributedSampler> sampler;
  std::optional<Fault> fault;
  std::optional<StopRequest> signals;
  if (request.stop_on_signals) signals.emplace();
  Plan plan;
  std::shared_ptr<Net> net;
  const std::optional<ResumePoint> from = find_resume_point(world, request.resume, request.out);
  const RunState start = from ? from->state : RunState();
  world.together([&] {
    check_settings(settings);
    fault.emplace(world.rank());
    const std::string folder = Cifar10::find(settings.data_dir);
    train_set = Cifar10::open(folder, Cifar10::Split::train);
    test_set = Cifar10::open(folder, Cifar10::Split::test);
  });
  agree_on_request(world, request);
  agree_on_data(world, {&*train_set, &*test_set});
  const DataMarks data = data_marks(*train_set, *test_set);
  world.together([&] {
    if (from) check_resume(*from, settings, data);
    plan = make_plan(settings, world.size(), train_set->size());
    if (from) {  // the same, unless another number of ranks pads epochs otherwise
      plan.scheduled_steps =
          start.step + (settings.train_epochs - start.epoch) * plan.steps_per_epoch - start.epoch_step;
      plan.total_steps = plan.scheduled_steps;
      if (settings.train_max_steps > 0) plan.total_steps = std::min(plan.total_steps, settings.train_max_steps);
      plan.total_steps = std::max(plan.total_steps, start.step);
    }
    // The plan's images of an epoch are the permutation of all ranks, padded where it says so.
    sampler.emplace(DistributedSampler::Options{
        .size = train_set->size(),
        .world_size = plan.padded ? world.size() : 1,
        .rank = 0,
        .shuffle = settings.data_shuffle,
        .seed = static_cast<uint64_t>(settings.data_seed >= 0 ? settings.data_seed : settings.train_seed)});
    at::manual_seed(static_cast<uint64_t>(settings.train_seed));
    net = make_net(settings.model_name);
    net->set_passes_per_step(plan.accumulate);
    if (first_rank && !from && net->images_to_prepare() > 0) {
      net->prepare(first_images(*train_set, net->images_to_prepare(), test_augmentation(settings)));
    }
    set_up_device(settings);
    move_net(*net, world.device(), settings.train_memory_format);
  });

  fault->at(Fault::Point::init);

  // Rank 0 owns the run folder.
  TrainResult result;
  result.steps = start.step;
  std::optional<TakenFolder> taken;
  std::optional<RunLog> log;
  const auto guard = [&] {
    try {
      taken->owner->check();
    } catch (const Error& error) {
      if (error.code() == ExitCode::launch) world.set_flight_folder("");  // the folder is another's, or gone
      throw;
    }
  };
  world.together([&] {
    if (!first_rank) return;
    result.out = !request.out.empty()         ? request.out
                 : from && !from->run.empty() ? from->run
                                              : default_run_folder(request.recipe, std::time(nullptr));
    taken.emplace(take_run_folder(result.out, request, from ? &*from : nullptr, world.size()));
    log.emplace(RunLog::Options{.folder = result.out,
                                .quiet = request.quiet,
                                .synthetic = train_set->synthetic() || test_set->synthetic(),
                                .epochs = settings.train_epochs,
                                .logs = settings.log_every_steps > 0,
                                .plan = plan,
                                .world_size = world.size(),
                                .first_step = start.step,
                                .seconds_before = start.seconds,
                                .before = taken->same_run ? start.logs : LogPositions(),
                                .guard = guard});
    taken->files.add({log->event_file()});
    taken->files.write();
    if (!taken->same_run) log->start(world.size(), world.threads(), count_parameters(*net), world.device_text());
    for (const std::string& note : taken->notes) log->warning(note);
  });
  world.set_flight_folder(world.all_gather(result.out)[0]);

  // All ranks: where the run stands. The gradients' engine hands rank 0's net to all.
  const Division divided = division(world, settings);
  Optimizer optimizer(settings, *net, plan.steps_per_epoch, divided);
  if (from) {
    const NamedTensors model = share_tensors(world, from->tensors, std::string(kModelPrefix));
    const NamedTensors kept = share_tensors(world, from->tensors, std::string(kOptimizerPrefix));
    world.together([&] {
      load_state_dict(*net, model, from->checkpoint);
      optimizer.load_state(kept, from->checkpoint);
    });
  }
  const bool as_on_a_gpu = world.device().is_cuda() || request.as_on_a_gpu;
  const Batches batches(*train_set, world.device(), as_on_a_gpu ? Batches::Where::device : Batches::Where::host,
                        memory_format(settings), training_augmentation(settings));
  int64_t epoch = start.epoch;
  StepClock clock(world);
  Gradients gradients(world, net, settings, plan, clock, batches,
                      as_on_a_gpu ? Gradients::Reads::when_asked : Gradients::Reads::each_step);
  const double slower = settings.train_virtual_ranks > 0 ? gradients.cost_of_virtual_ranks() : 0;
  const std::string opening = banner(world, settings, plan, named_parameters(*net), *train_set, *test_set,
                                     {.recipe = request.recipe,
                                      .columns = log ? log->columns() : 0,
                                      .out = result.out,
                                      .fault = fault->text(),
                                      .overlap = gradients.overlap(),
                                      .divided = divided.ranks > 1,
                                      .virtual_ranks_slower = slower});
  if (log) log->text(opening);
  if (log && from) {
    for (const std::string& note : from->notes) log->warning("passed over " + note);
    log->resumed(from->checkpoint, world.size(), world.threads());
    for (const std::string& change : noted_changes(start, settings, world.size(), world.threads())) {
      log->text("  " + change);
    }
  }
  TraceFile trace(world, request.trace, request.trace_first, request.trace_last);

  Saver saver({.world = world,
               .gradients = gradients,
               .net = *net,
               .optimizer = optimizer,
               .settings = settings,
               .fault = *fault,
               .out = result.out,
               .log = log ? &*log : nullptr,
               .files = taken ? &taken->files : nullptr,
               .guard = guard});
  std::optional<BestTest> best = start.best;
  int64_t epoch_step = start.epoch_step;
  const auto test = [&](int64_t tested_epoch) {  // all ranks
    const auto started = std::chrono::steady_clock::now();
    world.doing("evaluation", result.steps);
    fault->at(Fault::Point::evaluation);
    gradients.check(saver.last_good());
    gradients.sync_buffers();
    const Autocast autocast(world.device(), settings.train_precision);
    const Optimizer::Averaged averaged(optimizer);
    result.last = evaluate(world, *net, *test_set, settings.eval_batch, test_augmentation(settings), tta_of(settings));
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    if (log) log->test(result.steps, tested_epoch, *result.last, seconds);
    if (!best || result.last->accuracy > best->accuracy) {
      best = {.accuracy = result.last->accuracy, .epoch = tested_epoch, .step = result.steps};
    }
  };
  const auto checkpoint = [&] {  // all ranks
    world.doing("checkpoint", result.steps);
    saver.checkpoint({.step = result.steps,
                      .epoch = epoch,
                      .epoch_step = epoch_step,
                      .seconds = log ? log->seconds() : 0,
                      .world_size = world.size(),
                      .threads = world.threads(),
                      .data = data.train,
                      .test_data = data.test,
                      .best = best,
                      .logs = {},
                      .settings = setting_values(settings)});
  };
  Vote vote(world);
  int64_t stop = StopRequest::none;

  Speed speed;
  while (result.steps < plan.total_steps && stop == StopRequest::none) {
    gradients.deal().begin_epoch(sampler->permutation(epoch));
    const int64_t until = std::min(plan.steps_per_epoch, epoch_step + plan.total_steps - result.steps);
    while (epoch_step < until && stop == StopRequest::none) {
      const int64_t i = epoch_step;
      const int64_t step = result.steps + 1;
      trace.begin_step(step, clock);
      clock.step_begins(step);
      gradients.step({.epoch = epoch, .in_epoch = i, .in_run = step},
                     {.midway = [&] { fault->in_step(step); },
                      .change_loss =
                          [&](at::Tensor& loss) {
                            if (fault->due(Fault::Kind::nan, step)) {
                              loss = loss * std::numeric_limits<double>::quiet_NaN();
                            }
                          },
                      .plain = trace.under_way() || fault->changes_a_loss(step)});
      clock.enter(StepClock::optimizer);
      gradients.clip(saver.last_good());
      optimizer.step(step, plan.scheduled_steps);
      if (fault->due(Fault::Kind::flip, step)) flip_a_bit(*net);
      clock.enter(StepClock::log);

      result.steps = step;
      ++epoch_step;
      speed.add(gradients.deal().images(i));
      if (step == start.step + 1) {
        world.set_deadline(settings.watch_deadline_s);
        if (log) log->first_step(seconds_since_exec());
      }
      if (settings.ddp_audit_every > 0 && step % settings.ddp_audit_every == 0) {
        gradients.check(saver.last_good());
        gradients.sync_buffers();
        audit_replicas(world, replica_state(*net, optimizer), step);
      }
      clock.step_ends();
      if (settings.log_every_steps > 0 && step % settings.log_every_steps == 0) {
        gradients.check(saver.last_good());
        const double mean = gradients.mean_loss();
        const StepFigures figures = clock.gather();
        if (log) log->train(step, epoch, mean, optimizer.lr(), speed, figures);
        speed.restart();
      } else if (log) {
        log->step(step, epoch, speed.images_per_s());
      }
      trace.end_step(step, clock);
      saver.report();
      stop = vote.cast(StopRequest::value());  // all ranks stop after the same step
      if (settings.checkpoint_every_steps > 0 && step % settings.checkpoint_every_steps == 0 &&
          epoch_step < plan.steps_per_epoch) {
        speed.pause();
        checkpoint();
        speed.resume();
      }
    }

    speed.pause();
    const bool whole_epoch = epoch_step >= plan.steps_per_epoch;
    const bool last = result.steps == plan.total_steps;
    if (settings.eval_every_epochs > 0 && ((whole_epoch && (epoch + 1) % settings.eval_every_epochs == 0) || last)) {
      test(epoch);
    }
    if (whole_epoch) {
      saver.weights(fmt::format("{}_{}", settings.model_name, epoch), result.steps, Saver::Failure::told);
      ++epoch;
      epoch_step = 0;
      const bool due = (settings.checkpoint_every_epochs > 0 && epoch % settings.checkpoint_every_epochs == 0) ||
                       (settings.checkpoint_every_steps > 0 && result.steps % settings.checkpoint_every_steps == 0);
      if (due) checkpoint();
    }
    speed.resume();
  }
  vote.finish();
  const std::string untraced = trace.finish(clock);
  if (log && !untraced.empty()) log->text(untraced);

  // All ranks: the end of the run, or of this start of it.
  world.set_deadline(kPatience * settings.watch_deadline_s);
  fault->at(Fault::Point::finish);
  const bool saves = settings.checkpoint_every_epochs > 0 || settings.checkpoint_every_steps > 0;
  if (saver.last_step() != result.steps && result.steps > start.step && (saves || stop != StopRequest::none)) {
    checkpoint();
  }
  world.doing("saving", result.steps);
  saver.finish();
  saver.weights("final", result.steps, Saver::Failure::thrown);
  if (stop != StopRequest::none && result.steps < plan.total_steps) {
    result.end = stop == StopRequest::interrupt ? TrainResult::End::interrupted : TrainResult::End::stopped;
    if (log && saver.durable_step() != result.steps && result.steps > start.step) {
      throw Error(ExitCode::io, fmt::format("stopped on request after step {}, but without a checkpoint", result.steps),
                  "the reason stands above; final.pth has the weights");
    }
  }
  if (log) {
    log->end(result.steps, result.end != TrainResult::End::done ? "stopped on request"
                           : settings.train_max_steps > 0 && result.steps == settings.train_max_steps
                               ? "train.max_steps reached"
                               : "all epochs done");
  }
  world.doing("finish", result.steps);
  return result;
}

}  // namespace lockstep
