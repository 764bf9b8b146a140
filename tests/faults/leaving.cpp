// Ranks that leave the job, or forget to wait, in the way that the first word names: leaving WAY. A program as users
// have it: each error is printed where it is caught, and the process ends with its code.
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <mpi.h>

#include <chrono>
#include <cstdio>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <vector>

#include "lockstep/error.h"
#include "lockstep/world.h"

namespace {

c10::intrusive_ptr<c10d::Work> kept;

c10::intrusive_ptr<c10d::Work> sum(lockstep::World& world) {
  std::vector<at::Tensor> tensors = {at::ones({1000})};
  return world.process_group()->allreduce(tensors);
}

void steps(lockstep::World& world, int count) {
  for (int step = 1; step <= count; ++step) {
    world.doing("training", step);
    sum(world)->wait();
  }
  world.doing(nullptr, 0);
}

void work(lockstep::World& world, const std::string& way) {
  const bool second = world.rank() == 1;
  world.process_group();
  if (way == "early") {
    steps(world, second ? 3 : 6);
  } else if (way == "caught") {
    try {
      if (second) throw std::invalid_argument("no such file");
      steps(world, 1);
    } catch (const std::invalid_argument& error) {
      std::printf("caught: %s\n", error.what());
    }
  } else if (way == "unwound") {
    if (second) throw std::invalid_argument("no such file");
    steps(world, 1);
  } else if (way == "forgotten") {
    for (int i = 0; i < 5; ++i) sum(world);
    if (second) std::this_thread::sleep_for(std::chrono::milliseconds(300));
  } else if (way == "lengths") {
    std::vector<double> values(second ? 3 : 2, 1.0);
    world.sum(values);
  } else if (way == "open") {  // nobody sends
    std::vector<at::Tensor> tensors = {at::empty({10})};
    kept = world.process_group()->recv(tensors, second ? 0 : 1, 0);
  } else if (way == "message" && !second) {
    std::vector<at::Tensor> tensors = {at::empty({10})};
    world.process_group()->recv(tensors, 1, 0)->wait();
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string way = argc > 1 ? argv[1] : "";
  if (way == "initialised") MPI_Init(nullptr, nullptr);
  try {
    lockstep::World world({.threads = 1});
    work(world, way);
  } catch (const lockstep::Error& error) {
    std::fprintf(stderr, "lockstep: error: %s\nhint: %s\n", error.what(), error.hint().c_str());
    if (way == "initialised") MPI_Finalize();
    return static_cast<int>(error.code());
  } catch (const std::invalid_argument&) {
    std::this_thread::sleep_for(std::chrono::seconds(60));  // its World is gone, the process is not
  }
  return 0;
}
