// PyTorch's process group over NCCL, as Lockstep sets it.
#pragma once

#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "world/gpu_part.h"

namespace lockstep {

/// Collectives fail after the deadline (or a year); the communicator starts without blocking, so that a rank that never
/// comes is noticed (TORCH_NCCL_NONBLOCKING_TIMEOUT), and on a stream of high priority, ahead of backward's kernels.
c10::intrusive_ptr<c10d::ProcessGroupNCCL::Options> nccl_options(const NcclOptions& options);

/// Collective: connects this rank's GPU to the others' at once.
c10::intrusive_ptr<c10d::Backend> make_nccl(const c10::intrusive_ptr<c10d::Store>& store, const NcclOptions& options);

}  // namespace lockstep
