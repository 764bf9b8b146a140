// A module's parameters and buffers, as the engines of this room see them, and ranks that take over others' tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "lockstep/weights.h"

namespace torch::nn {
class Module;
}

namespace lockstep {

class World;

/// The parameters that require a gradient, in order of registration. One that layers share is there once, by its first
/// name.
NamedTensors trainable_parameters(const torch::nn::Module& module);

/// Throws AgreedError (usage) when `module` is null: for ranks that agree on it. `taker` is who was given it.
void refuse_no_module(const char* taker, const torch::nn::Module* module);

/// Local; the same on ranks that agree on describe_module. Throws AgreedError (usage) naming the first parameter or
/// buffer whose values cannot be copied from another rank: sparse, quantized, or with elements that share memory.
void refuse_unusual_tensors(const torch::nn::Module& module);

/// Local. Throws Error (usage) naming `parameter` when its gradient is there and sparse.
void refuse_sparse_gradient(const std::string& name, const at::Tensor& parameter);

/// Collective: rank 0's values replace those of all ranks, of any dtype and bit for bit, in messages of at most
/// `most_bytes` bytes. Shapes and dtypes are equal on all ranks, strides may differ. For autograd nothing has changed:
/// a graph that saved one of the tensors may still be run backward, as with Python's DistributedDataParallel.
void follow_rank_0(World& world, const std::vector<at::Tensor>& tensors, int64_t most_bytes = int64_t{256} << 20);

/// Collective: part r, as rank r has it, replaces part r on all other ranks. One part for each rank, contiguous, of
/// equal size and dtype on all ranks; empty ones are not sent.
void follow_each_rank(World& world, const std::vector<at::Tensor>& parts);

}  // namespace lockstep
