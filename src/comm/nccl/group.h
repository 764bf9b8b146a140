// NCCL beside MPI in the process group, and the look at it before the first step.
#pragma once

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

namespace lockstep {

class World;

/// Collective, with a GPU on every rank: adds a backend for tensors on GPUs, NCCL by PyTorch's ProcessGroupNCCL, and
/// proves it: versions are compared, and a small sum over all ranks must come out right within the deadline (or 300 s).
/// Throws AgreedError: launch for different versions or hosts that do not reach each other, rank_lost for a sum that
/// does not come, internal for a wrong one.
void add_nccl(World& world, c10d::ProcessGroup& group);

/// Collective: the communicator's end; ends the job when that takes longer than a while, because a peer is gone.
void end_nccl(World& world, c10d::ProcessGroup& group);

/// Collective: every rank gives a text that should be the same, such as its versions; throws AgreedError (launch)
/// naming the first rank that differs from rank 0, and both texts.
void same_on_all_ranks(World& world, const std::string& about, const std::string& text, const std::string& hint);

/// Collective: sums a tensor on `device` whose sum is known, through `group`. Throws AgreedError (internal) naming the
/// rank where it came out wrong.
void check_sum(World& world, c10d::ProcessGroup& group, c10::Device device);

}  // namespace lockstep
