// A training step, with its communication done in several ways.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bench/operators.h"
#include "bench/summary.h"

namespace lockstep {

class Net;
class World;

struct StepOptions {
  int64_t layers = 32;  ///< linear layers
  int64_t width = 256;  ///< inputs and outputs of each
  int64_t batch = 512;  ///< rows, or images, on each rank
  int64_t steps = 20;   ///< timed ones of each way
  int64_t bucket_bytes = 256 * 1024;
  /// Makes a network of images, on the World's device, to train in place of the linear layers.
  std::function<std::shared_ptr<Net>()> image_net;
  bool channels_last = false;  ///< the layout of its images
  /// What it gives lives while forward and loss are computed: autocast.
  std::function<std::shared_ptr<void>()> around_forward = [] { return nullptr; };
  bool profile = false;  ///< after the timed steps as many again, for StepTimes::operators
};

/// Milliseconds a step (forward, backward, optimizer) on the slowest rank. A GPU is waited for at the end of a step, in
/// the first two ways after each phase too. What is optional needs more than one rank.
struct StepTimes {
  int64_t gradient_bytes = 0;
  Summary forward;  ///< of this step's phases, on rank 0 and without communication
  Summary backward;
  Summary optimizer;
  Summary synchronised;  ///< nothing is sent; the ranks meet at the end of backward
  Summary blocking;      ///< one all-reduce of all gradients after backward
  Summary in_buckets;    ///< DistributedDataParallel, buckets start when they are full and are moved on after backward
  Summary overlapped;    ///< DistributedDataParallel, buckets travel while backward computes
  std::optional<Summary> unsent;  ///< as that, but nothing is sent and the ranks meet instead; on CPUs only

  /// What a way leaves of the speed of `synchronised`. Medians over the rounds of all ways, whose steps are neighbours:
  /// a machine that turns slower or faster for a while does not shift them.
  std::optional<double> speed_blocking;
  std::optional<double> speed_in_buckets;
  std::optional<double> speed_overlapped;
  std::optional<double> speed_unsent;
  /// What sending leaves of the speed of `unsent`, which has all other work of DistributedDataParallel.
  std::optional<Estimate> sending_in_buckets;
  std::optional<Estimate> sending_overlapped;

  /// The part of the communication that a way hides: 0 is `blocking`, 1 is `synchronised`. Medians of the differences
  /// in a round. None where a quarter of the rounds or more found no cost of `blocking`: what is hidden of so little is
  /// noise.
  std::optional<Estimate> hidden_in_buckets;
  std::optional<Estimate> hidden_overlapped;

  /// Of rank 0 in steps of the last way, with `profile`.
  std::vector<OperatorTime> operators;
};

/// Collective. The ways take turns step by step, so that a busy machine hits all alike.
StepTimes measure_step(World& world, const StepOptions& options);

std::string step_table(const StepTimes& times);

}  // namespace lockstep
