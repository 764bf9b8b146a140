// The gradients of a step, by either engine: averaged over ranks, or added over virtual ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/ddp.h"
#include "lockstep/net.h"
#include "lockstep/settings.h"
#include "lockstep/virtual_ranks.h"
#include "train/batches.h"
#include "train/deal.h"
#include "train/device_path.h"
#include "train/step_clock.h"
#include "world/recorded_work.h"

namespace lockstep {

class World;

/// Which step of a run it is.
struct StepPlace {
  int64_t epoch = 0;     ///< from 0
  int64_t in_epoch = 0;  ///< from 0
  int64_t in_run = 0;    ///< from 1
};

/// Whether full steps on a GPU are recorded and replayed: with train.cuda_graph, unless virtual ranks or ddp.wire =
/// bf16 do something in a step that was not tried in a recorded one.
bool records_steps(const Settings& settings);

struct StepHooks {
  std::function<void()> midway;                       ///< once on each rank, between forward and backward
  std::function<void(at::Tensor& loss)> change_loss;  ///< of the first pass
  /// Not as a recorded graph. The same on all ranks; true wherever a rank's loss is changed.
  bool plain = false;
};

class Gradients {
 public:
  /// When losses and norms are read: a GPU is read only where somebody asks, since each time the host waits until the
  /// GPU has done all it was given. Results do not depend on it.
  enum class Reads { each_step, when_asked };

  /// Collective: every rank's net becomes rank 0's. The net is where the world's device is, and so are the batches.
  /// On a GPU the calling thread is under an OwnStream, now and in every step.
  Gradients(World& world, std::shared_ptr<Net> net, const Settings& settings, const Plan& plan, StepClock& clock,
            const Batches& batches, Reads reads);

  Deal& deal() { return deal_; }

  /// Collective: runs this rank's passes of a step. Afterwards every rank has the gradients of the mean over the global
  /// batch. A loss that is not finite makes all gradients so, on every rank.
  ///
  /// With Reads::when_asked, where records_steps() says so, all that a full step gives to a GPU here and in clip() is
  /// recorded once the first steps are done, and replayed from then on: the same kernels on the same places, so the
  /// same bits.
  void step(const StepPlace& place, const StepHooks& hooks);

  /// Collective, after step(): gradients longer than train.clip_norm (2-norm over all; 0: no limit) are scaled to it,
  /// as torch.nn.utils.clip_grad_norm_ does. A norm that is not finite throws AgreedError (diverged) naming the rank
  /// that made it and the last weights saved: here, when each step is read, else from the next check().
  void clip(const std::string& last_saved);

  /// Collective: reads what steps since the last time left unread. For before their results are kept or shown.
  void check(const std::string& last_saved);

  /// Collective, after check(): the mean loss over the images of the last step. With virtual ranks it has the same bits
  /// at any number of ranks.
  double mean_loss();

  /// Collective: rank 0's buffers on every rank.
  void sync_buffers();

  /// Local: how much longer the passes of a step take than those without virtual ranks, as a fraction: 0.1 is 10 %
  /// slower. Runs some of them on zeros; parameters, buffers, gradients and random numbers stay as they are.
  double cost_of_virtual_ranks();

  bool overlap() const { return ddp_ && ddp_->overlap(); }
  /// Whether the last step was replayed.
  bool replayed() const { return replayed_; }

 private:
  at::Tensor logits(const at::Tensor& images);
  at::Tensor loss_of(const at::Tensor& logits, const at::Tensor& labels) const;
  void enter(StepClock::Phase phase);
  void run_passes(int64_t shard, const StepHooks* hooks, const std::vector<Batches::Chosen>* chosen = nullptr);
  at::Tensor clip_on_device();
  bool may_replay(const StepHooks& hooks) const;
  void replay(const StepHooks& hooks);
  void record();
  [[noreturn]] void explain_now(const std::string& last_saved);
  [[noreturn]] void explain_later(int64_t step_of_run, int64_t own_loss_step, const std::string& last_saved);

  World& world_;
  std::shared_ptr<Net> net_;
  Settings settings_;
  Plan plan_;
  StepClock& clock_;
  const Batches& batches_;
  Reads reads_;
  Deal deal_;
  std::optional<DistributedDataParallel<Net>> ddp_;
  std::optional<VirtualRanks> virtual_ranks_;
  std::vector<at::Tensor> parameters_;
  std::vector<double> shard_losses_;  // of this rank's shards in the last step, weighted
  // With Reads::when_asked, on the device: the same, and of the norm and each of these losses (float64 [1 + losses])
  // whether it was finite in all steps so far (0, else NaN) and the last step until which it was.
  std::vector<at::Tensor> unread_losses_;
  at::Tensor finite_;
  at::Tensor finite_until_;
  at::Tensor step_there_;  // place_.in_run
  int64_t steps_unread_ = 0;
  at::Tensor images_;
  at::Tensor labels_;
  StepPlace place_;
  // A full step: what it is made from, its work, and its losses. The work is null until it is recorded.
  std::vector<Batches::Chosen> chosen_;
  std::unique_ptr<RecordedWork> recorded_;
  std::vector<at::Tensor> recorded_losses_;
  RecordedWork* recording_ = nullptr;  // while passes are recorded, or rehearsed: they enter no phases
  StepsAhead ahead_;
  int64_t plain_steps_ = 0;
  bool replayed_ = false;
};

}  // namespace lockstep
