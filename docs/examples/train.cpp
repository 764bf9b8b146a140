// Trains sjnet on CIFAR-10 over all ranks with the library alone:  mpirun -n 2 example_train DATA_DIR [STEPS]
#include <ATen/Context.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <torch/optim/sgd.h>

#include <cstdio>
#include <cstdlib>

#include "lockstep/cifar10.h"
#include "lockstep/ddp.h"
#include "lockstep/evaluator.h"
#include "lockstep/model.h"
#include "lockstep/net.h"
#include "lockstep/sampler.h"
#include "lockstep/weights.h"
#include "lockstep/world.h"

int main(int argc, char** argv) try {
  using namespace lockstep;
  World world;
  const std::string folder = Cifar10::find(argc > 1 ? argv[1] : "data");
  const int64_t steps = argc > 2 ? std::atoll(argv[2]) : 100;
  const auto train_set = Cifar10::open(folder, Cifar10::Split::train);
  const auto test_set = Cifar10::open(folder, Cifar10::Split::test);
  const DistributedSampler sampler({.size = train_set.size(), .world_size = world.size(), .rank = world.rank()});

  at::manual_seed(0);  // LibTorch's own seed differs from run to run
  const auto net = make_net("sjnet");
  DistributedDataParallel ddp(world, net);  // from here on every rank holds rank 0's weights
  torch::optim::SGD optimizer(ddp.parameters(), torch::optim::SGDOptions(0.003).momentum(0.9));

  const size_t batch = 32;  // on each rank
  at::Tensor images, labels;
  for (int64_t step = 0, epoch = 0; step < steps; ++epoch) {
    const auto order = sampler.indices(epoch);
    for (size_t first = 0; first + batch <= order.size() && step < steps; first += batch, ++step) {
      train_set.batch(std::span(order).subspan(first, batch), images, labels);
      const auto loss = at::cross_entropy_loss(ddp.forward(images), labels);
      optimizer.zero_grad();
      loss.backward();  // gradients are averaged over the ranks here
      optimizer.step();
      if (world.rank() == 0 && step % 20 == 0)
        std::printf("step %ld loss %.4f\n", static_cast<long>(step), loss.item<float>());
    }
  }

  const Evaluation test = evaluate(world, *net, test_set, 64);
  if (world.rank() == 0) {
    std::printf("accuracy %.2f %%\n", 100 * test.accuracy);
    save_pth("example.pth", state_dict(*net));
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;  // World has left without waiting for the others; mpirun ends them
}
