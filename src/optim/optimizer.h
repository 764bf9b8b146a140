// The optimizer of a run: which parameters are updated how, at which rate, and what is kept for them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/settings.h"
#include "lockstep/weights.h"
#include "optim/division.h"

namespace torch::optim {
class SGD;
}

namespace lockstep {

class Muon;
class Net;

/// Updates a net's parameters by their gradients as the settings optim.* say:
///
///     sgd    LibTorch's SGD, one rate for all parameters.
///     muon   filters (Net::kind_of) by Muon with optim.lr and optim.momentum; biases and the head by LibTorch's SGD
///            with rates and momentum of their own and optim.weight_decay / the group's rate, which takes that share of
///            a weight in a step at the peak rate. The whitening's bias has the biases' rate, falling linearly to 0
///            over the first optim.whiten_epochs; all other rates follow optim.schedule.
///
/// A parameter that layers share is updated once, as in Python.
///
/// Local; every rank makes the same update from the same gradients. With a division among ranks and muon, step() is
/// collective: each rank makes some of the filters' updates. The net outlives it and stays where it is.
class Optimizer {
 public:
  Optimizer(const Settings& settings, const Net& net, int64_t steps_per_epoch, const Division& division = {});
  ~Optimizer();
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  /// Step `step` (from 1) of a run whose epochs have `total_steps`: sets the rates, then updates all parameters that
  /// have a gradient.
  void step(int64_t step, int64_t total_steps);

  /// The rate of the last step (optim.lr and its schedule); before the first: optim.lr.
  double lr() const { return lr_; }

  /// "NAME.momentum_buffer" and "NAME.average" for each parameter that has them, in the net's order, sharing the
  /// optimizer's memory.
  NamedTensors state() const;

  /// Puts copies of such tensors in place, with dtype, device and layout of their parameters. Throws Error (damaged)
  /// for a tensor that belongs to no parameter or has another shape than its own; `where` names their file.
  void load_state(const NamedTensors& tensors, const std::string& where);

  /// While it lives, the net's parameters are their averages over the steps (optim.ema; 0, or before the first step:
  /// themselves): what a run tests and saves as weights. Buffers stay. Never during a step. The optimizer outlives it.
  class Averaged {
   public:
    explicit Averaged(const Optimizer& optimizer) : optimizer_(optimizer) { optimizer_.swap_averages(); }
    ~Averaged() { optimizer_.swap_averages(); }
    Averaged(const Averaged&) = delete;
    Averaged& operator=(const Averaged&) = delete;

   private:
    const Optimizer& optimizer_;
  };

 private:
  void update_averages();
  void swap_averages() const;

  // One for each parameter group of sgd_.
  struct Rate {
    double peak = 0;
    int64_t only_steps = 0;  // linear to 0 over so many; 0: as the schedule says
  };

  at::Tensor buffer_of(const at::Tensor& parameter) const;

  Settings settings_;
  const Net& net_;
  std::unique_ptr<torch::optim::SGD> sgd_;
  std::vector<Rate> rates_;
  std::unique_ptr<Muon> muon_;  // where there is anything for it
  double lr_;
  // With optim.ema: of the parameters that are trained, in the net's order.
  std::vector<std::string> averaged_names_;
  std::vector<at::Tensor> averaged_;
  std::vector<at::Tensor> averages_;
};

}  // namespace lockstep
