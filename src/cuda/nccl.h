// PyTorch's process group over NCCL, as Lockstep sets it.
#pragma once

#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "world/gpu_part.h"

namespace lockstep {

/// Collectives fail after the deadline (or a year) and run on a stream of high priority, ahead of backward's kernels.
/// How the communicator starts is left to PyTorch, which blocks unless TORCH_NCCL_USE_COMM_NONBLOCKING is set: it took
/// back the other as its default after random hangs (pytorch/pytorch#154055). A TimeLimit covers the start.
c10::intrusive_ptr<c10d::ProcessGroupNCCL::Options> nccl_options(const NcclOptions& options);

/// Collective: connects this rank's GPU to the others' at once.
c10::intrusive_ptr<c10d::Backend> make_nccl(const c10::intrusive_ptr<c10d::Store>& store, const NcclOptions& options);

}  // namespace lockstep
