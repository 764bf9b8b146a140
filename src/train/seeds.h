// The same training from several seeds: how much of a result is luck.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/trainer.h"

namespace lockstep {

class World;

struct MeanAndDeviation {
  double mean = 0;
  double deviation = 0;
};

/// Mean and sample standard deviation (over n - 1; 0 for a single value).
MeanAndDeviation spread_of(const std::vector<double>& values);

/// Collective: train() with train.seed = S, S + 1, … S + count - 1 of the request, into OUT/seed-S and so on. When all
/// are done rank 0 writes OUT/seeds.json and prints mean and deviation of the last test losses and accuracies. A run
/// that was stopped ends all, and its end is returned; so does an error, as train() throws it. Throws AgreedError
/// (usage) for a request that resumes, or that never tests.
TrainResult::End train_seeds(World& world, TrainRequest request, int64_t count);

}  // namespace lockstep
