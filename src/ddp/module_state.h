// A module's parameters and buffers, as the engines of this room see them, and ranks that take over others' tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

namespace torch::nn {
class Module;
}

namespace lockstep {

class World;

/// The parameters that require a gradient, in order of registration. One that layers share is there once, by its first
/// name.
std::vector<std::pair<std::string, at::Tensor>> trainable_parameters(const torch::nn::Module& module);

/// Collective: rank 0's values replace those of all ranks, in one message for each dtype. Shapes and dtypes are equal
/// on all ranks, strides may differ.
void follow_rank_0(World& world, const std::vector<at::Tensor>& tensors);

/// Collective: part r, as rank r has it, replaces part r on all other ranks. One part for each rank, contiguous, of
/// equal size and dtype on all ranks; empty ones are not sent.
void follow_each_rank(World& world, const std::vector<at::Tensor>& parts);

}  // namespace lockstep
