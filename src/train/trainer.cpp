// The step loop: reads from top to bottom as a run goes. "All ranks" and "rank 0" mark what is collective and what is
// not.
#include "lockstep/trainer.h"

#include <ATen/Context.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <fmt/format.h>
#include <torch/optim/sgd.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "lockstep/cifar10.h"
#include "lockstep/ddp.h"
#include "lockstep/model.h"
#include "lockstep/net.h"
#include "lockstep/sampler.h"
#include "lockstep/weights.h"
#include "lockstep/world.h"
#include "train/banner.h"
#include "train/fault.h"
#include "train/plan.h"
#include "train/run_folder.h"
#include "train/run_log.h"
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

// All ranks: the mean over the global batch. Every rank holds an equal share, so it is the mean of the ranks' means.
double global_mean(World& world, const at::Tensor& loss) {
  double value = loss.item<float>();
  world.sum(std::span(&value, 1));
  return value / world.size();
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
    sampler.emplace(DistributedSampler::Options{
        .size = train_set->size(),
        .world_size = world.size(),
        .rank = world.rank(),
        .shuffle = settings.data_shuffle,
        .seed = static_cast<uint64_t>(settings.data_seed >= 0 ? settings.data_seed : settings.train_seed)});
    plan = make_plan(settings, world.size(), train_set->size(), sampler->size());
    at::manual_seed(static_cast<uint64_t>(settings.train_seed));
    net = make_net(settings.model_name);
  });

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
                                .plan = plan});
    log->start(world.size(), world.threads(), count_parameters(*net));
  });
  const std::string opening = banner(world, settings, plan, state_dict(*net), *train_set, *test_set,
                                     {.recipe = request.recipe, .out = result.out, .fault = fault->text()});
  if (log) log->text(opening);

  DistributedDataParallel ddp(world, net, {.bucket_bytes = settings.ddp_bucket_bytes});
  torch::optim::SGD optimizer = make_optimizer(settings, *net);

  const auto test = [&](int64_t epoch) {  // all ranks
    const auto started = std::chrono::steady_clock::now();
    result.last = evaluate(world, *net, *test_set, settings.eval_batch);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
    if (log) log->test(result.steps, epoch, *result.last, seconds);
  };
  const auto save = [&](const std::string& name) {  // rank 0
    if (!first_rank) return;
    const std::string path = fmt::format("{}/{}.pth", result.out, name);
    save_pth(path, state_dict(*net));
    log->weights(path);
  };

  at::Tensor images;
  at::Tensor labels;
  Speed speed;
  for (int64_t epoch = 0; result.steps < plan.total_steps; ++epoch) {
    const std::vector<int64_t> order = sampler->indices(epoch);
    const int64_t steps = std::min(plan.steps_per_epoch, plan.total_steps - result.steps);
    for (int64_t i = 0; i < steps; ++i) {
      const auto first = static_cast<size_t>(i * plan.batch_per_rank);
      const auto count = std::min(static_cast<size_t>(plan.batch_per_rank), order.size() - first);
      train_set->batch(std::span(order).subspan(first, count), images, labels);

      const at::Tensor loss = at::cross_entropy_loss(ddp.forward(images), labels);
      fault->in_step(result.steps + 1);
      ddp.zero_grad();
      loss.backward();  // all ranks: gradients are averaged here
      optimizer.step();

      ++result.steps;
      speed.add(static_cast<int64_t>(count) * world.size());
      if (log && result.steps == 1) log->first_step(seconds_since_exec());
      if (settings.log_every_steps > 0 && result.steps % settings.log_every_steps == 0) {
        const double mean = global_mean(world, loss);
        if (log) log->train(result.steps, epoch, mean, settings.optim_lr, speed.images_per_s());
        speed.restart();
      } else if (log) {
        log->step(result.steps, epoch, speed.images_per_s());
      }
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
  save("final");
  if (log)
    log->end(result.steps, settings.train_max_steps > 0 && result.steps == settings.train_max_steps
                               ? "train.max_steps reached"
                               : "all epochs done");
  return result;
}

}  // namespace lockstep
