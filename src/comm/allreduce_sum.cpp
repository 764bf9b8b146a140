#include "comm/allreduce_sum.h"

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <vector>

#include "lockstep/world.h"

namespace lockstep {

void allreduce_sum(World& world, const at::Tensor& tensor) {
  std::vector<at::Tensor> tensors = {tensor};
  world.process_group()->allreduce(tensors)->wait();
}

}  // namespace lockstep
