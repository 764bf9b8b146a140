#include "ddp/tree_sum.h"

#include <ATen/ops/empty_like.h>

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <vector>

#include "lockstep/world.h"

namespace lockstep {

void tree_sum(World& world, at::Tensor& tensor) {
  if (!tensor.is_cpu()) {
    tree_sum_by_messages(world, tensor);
    return;
  }
  std::vector<at::Tensor> one = {tensor};
  world.process_group()->allreduce(one)->wait();
}

void tree_sum_by_messages(World& world, at::Tensor& tensor) {
  c10d::ProcessGroup& group = *world.process_group();
  std::vector<at::Tensor> mine = {tensor};
  std::vector<at::Tensor> other = {at::empty_like(tensor)};
  for (int distance = 1; distance < world.size(); distance *= 2) {
    const int peer = world.rank() ^ distance;
    // On a stream a message is done before the next begins, so one side speaks first.
    if (world.rank() < peer) {
      group.send(mine, peer, 0)->wait();
      group.recv(other, peer, 0)->wait();
    } else {
      group.recv(other, peer, 0)->wait();
      group.send(mine, peer, 0)->wait();
    }
    tensor.add_(other[0]);  // a + b has the bits of b + a, so both sides hold the same
  }
}

}  // namespace lockstep
