// Do all ranks run the same thing? Asked once, before the first step.
#pragma once

#include <string>
#include <vector>

namespace torch::nn {
class Module;
}

namespace lockstep {

class World;

/// Collective: compares `lines` over all ranks. `about` says in a few words what they describe.
///
///     agree(world, "the model", describe_module(*net));
///
/// When ranks differ from rank 0, every rank throws the same AgreedError (ExitCode::launch) that names them, their
/// hosts and the first line in which the lowest of them differs. Lines may not hold zero bytes. Costs one all-gather of
/// 32 bytes a rank while all is well.
void agree(World& world, const std::string& about, const std::vector<std::string>& lines);

/// The versions of Lockstep and LibTorch, then a line for each parameter and each buffer, in order:
/// `parameter 4.weight [64, 10] float32`, with `strides [1, 64]` when it is not contiguous and `frozen` when it takes
/// no gradient. Values are not in it. Local.
std::vector<std::string> describe_module(const torch::nn::Module& module);

}  // namespace lockstep
