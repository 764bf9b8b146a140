// An all-reduce for rooms that know nothing of c10d.
#pragma once

#include <ATen/core/Tensor.h>

namespace lockstep {

class World;

/// Collective: `tensor` (host memory, equal shape and type on all ranks) becomes its sum over all ranks, by
/// World::process_group() as a caller of c10d has it: one call, waited for. Throws what that call throws.
void allreduce_sum(World& world, const at::Tensor& tensor);

}  // namespace lockstep
