// What a person reads before the first step.
#pragma once

#include <cstddef>
#include <string>

#include "lockstep/settings.h"
#include "lockstep/weights.h"
#include "train/plan.h"

namespace lockstep {

class Cifar10;
class World;

struct BannerFacts {
  std::string recipe;
  std::size_t columns = 80;  ///< that a line may take
  std::string out;
  std::string fault;                ///< planted for a test; empty: none
  bool overlap = false;             ///< gradients travel while backward computes
  bool divided = false;             ///< each rank makes some of Muon's updates
  double virtual_ranks_slower = 0;  ///< fraction, measured
};

/// Collective: the text of several lines, on rank 0; empty elsewhere.
std::string banner(World& world, const Settings& settings, const Plan& plan, const NamedTensors& parameters,
                   const Cifar10& train_set, const Cifar10& test_set, const BannerFacts& facts);

}  // namespace lockstep
