// The sum over ranks whose bits do not depend on who computes it.
#pragma once

#include <ATen/core/Tensor.h>

namespace lockstep {

class World;

/// Collective, with a power of two of ranks: `tensor` (contiguous, equal shape, type and kind of device on all ranks)
/// becomes its sum over the ranks, every element in the binary tree ((0 1)(2 3))((4 5)(6 7)). In host memory that is
/// the MPI backend's all-reduce; NCCL's adds in an order of its own, so on GPUs tree_sum_by_messages does it.
void tree_sum(World& world, at::Tensor& tensor);

/// The same over sends and receives of whole tensors between pairs of ranks, log2(ranks) times, on any device.
void tree_sum_by_messages(World& world, at::Tensor& tensor);

}  // namespace lockstep
