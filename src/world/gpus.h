// Which GPU each rank owns: decided from what all ranks say they see, so that every rank comes to the same answer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/device.h"

namespace lockstep {

class World;

/// One GPU that a process may use, as CUDA describes it.
struct Gpu {
  std::string name;
  std::string uuid;          ///< "GPU-…", or "MIG-…" for a slice of one
  std::string pci;           ///< bus address; slices of one GPU share it
  int64_t memory_bytes = 0;  ///< all of it, not what is free

  bool operator==(const Gpu&) const = default;
};

/// What one rank sees, in CUDA's order: CUDA_VISIBLE_DEVICES has been applied.
struct VisibleGpus {
  std::vector<Gpu> gpus;
  std::string problem;     ///< why there are none; empty when there are
  std::string visible;     ///< "CUDA_VISIBLE_DEVICES=…", empty where it is not set
  bool may_share = false;  ///< NCCL allows several ranks on one GPU here, and the user asked for it

  bool operator==(const VisibleGpus&) const = default;
};

/// A rank and what it sees.
struct RankGpus {
  std::string host;
  int local_rank = 0;
  int local_size = 1;
  VisibleGpus sees;
};

/// The index among its visible GPUs that each rank owns, or -1 for all ranks: they use the CPU.
///
/// Each takes the first GPU it sees that no lower rank of its host took: the one at its local rank where all see the
/// same, its own where a launcher gave each task one. Throws AgreedError (launch) with a table of all ranks when a rank
/// has no GPU of its own: none to be seen, fewer than local ranks, or two ranks on one GPU of a host (by UUID, and by
/// bus address for slices). With `automatic`, ranks that all see none use the CPU.
std::vector<int> choose_gpus(DeviceWish wish, const std::vector<RankGpus>& ranks);

/// Collective: World::choose_device for a rank that sees `mine`; the device is noted, not yet used.
void give_gpus(World& world, DeviceWish wish, const VisibleGpus& mine);

/// For the way between ranks.
std::string to_text(const RankGpus& rank);
RankGpus rank_gpus_from_text(const std::string& text);

}  // namespace lockstep
