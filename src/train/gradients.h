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
#include "train/deal.h"
#include "train/step_clock.h"

namespace lockstep {

class World;

class Gradients {
 public:
  /// Fills images and labels for a pass.
  using Load = std::function<void(std::span<const int64_t> indices, at::Tensor& images, at::Tensor& labels)>;

  /// When losses and norms are read: a GPU is read only where somebody asks, since each time the host waits until the
  /// GPU has done all it was given. Results do not depend on it.
  enum class Reads { each_step, when_asked };

  /// Collective: every rank's net becomes rank 0's. The net is where the world's device is.
  Gradients(World& world, std::shared_ptr<Net> net, const Settings& settings, const Plan& plan, StepClock& clock,
            Load load, Reads reads);

  Deal& deal() { return deal_; }

  /// Collective: runs this rank's passes of a step of the epoch. Afterwards every rank has the gradients of the mean
  /// over the global batch. A loss that is not finite makes all gradients so, on every rank.
  /// `before_backward` runs once on each rank, between the first forward and backward pass; it may change the loss.
  void step(int64_t step, const std::function<void(at::Tensor& loss)>& before_backward);

  /// Collective, after step(): gradients longer than `limit` (2-norm over all; 0: no limit) are scaled to it, as
  /// torch.nn.utils.clip_grad_norm_ does. A norm that is not finite throws AgreedError (diverged) naming the rank that
  /// made it and the last weights saved: here, when each step is read, else from the next check(). `step_of_run` counts
  /// from 1.
  void clip(double limit, int64_t step_of_run, int64_t step, const std::string& last_saved);

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

 private:
  at::Tensor logits(const at::Tensor& images);
  at::Tensor loss_of(const at::Tensor& logits, const at::Tensor& labels) const;
  void run_passes(int64_t step, int64_t shard, const std::function<void(at::Tensor&)>* before_backward);
  [[noreturn]] void explain_now(int64_t step_of_run, int64_t step, const std::string& last_saved);
  [[noreturn]] void explain_later(int64_t step_of_run, int64_t own_loss_step, const std::string& last_saved);

  World& world_;
  std::shared_ptr<Net> net_;
  Settings settings_;
  Plan plan_;
  StepClock& clock_;
  Load load_;
  Reads reads_;
  Deal deal_;
  std::optional<DistributedDataParallel<Net>> ddp_;
  std::optional<VirtualRanks> virtual_ranks_;
  std::vector<at::Tensor> parameters_;
  std::vector<double> shard_losses_;  // of this rank's shards in the last step, weighted
  // With Reads::when_asked: the same on the device, and the first steps whose norm, and whose loss of this rank, were
  // not finite; 0: none.
  std::vector<at::Tensor> unread_losses_;
  at::Tensor bad_norm_;
  at::Tensor bad_loss_;
  int64_t steps_unread_ = 0;
  at::Tensor images_;
  at::Tensor labels_;
};

}  // namespace lockstep
