// The hot pieces of a step and of a checkpoint, each by itself (Google Benchmark).
//
//     build/release/pieces --benchmark_filter=optimizer
#include <ATen/Parallel.h>
#include <ATen/ops/rand.h>
#include <benchmark/benchmark.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

#include "lockstep/augment.h"
#include "lockstep/cifar10.h"
#include "lockstep/ddp.h"
#include "lockstep/event_writer.h"
#include "lockstep/model.h"
#include "lockstep/net.h"
#include "lockstep/sampler.h"
#include "lockstep/weights.h"
#include "lockstep/world.h"
#include "store/checkpoint.h"
#include "store/crc32.h"
#include "store/digest.h"

namespace lockstep {
namespace {

// A folder that goes with the program.
class Folder {
 public:
  Folder() : path_((std::filesystem::temp_directory_path() / "lockstep-pieces-XXXXXX").string()) {
    if (mkdtemp(path_.data()) == nullptr) throw std::runtime_error("no temporary folder");
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

void batch_pass(benchmark::State& state, at::MemoryFormat format, const std::string& folder) {
  const Cifar10 set = Cifar10::open(folder, Cifar10::Split::train);
  const BatchPass pass({.normalize = true, .flip = Augmentation::Flip::alternating, .translate = 2}, format);
  const auto order = DistributedSampler({.size = set.size()}).permutation(0);
  at::Tensor images, labels;
  size_t at = 0;
  for (auto _ : state) {
    pass.load(set, std::span(order).subspan(at, 64), 0, images, labels);
    benchmark::DoNotOptimize(images.data_ptr());
    at = (at + 64) % (order.size() - 64);
  }
  state.SetItemsProcessed(state.iterations() * 64);
}

// A network whose own work is little: what stays between the two is the reducer's, its hooks' and the comm thread's.
void backward(benchmark::State& state, World& world, bool reduced) {
  const auto net = std::make_shared<torch::nn::LinearImpl>(256, 256);
  DistributedDataParallel ddp(world, net);
  const at::Tensor row = at::rand({1, 256});
  for (auto _ : state) {
    ddp.zero_grad();
    if (reduced) {
      ddp.forward(row).sum().backward();
    } else {
      const auto no_sync = ddp.no_sync();
      ddp.forward(row).sum().backward();
    }
  }
}

void optimizer_step(benchmark::State& state) {
  const auto net = make_net("sjnet");
  for (at::Tensor& parameter : net->parameters()) parameter.mutable_grad() = at::rand(parameter.sizes());
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(1e-6).momentum(0.9).nesterov(true));
  for (auto _ : state) optimizer.step();
}

void event(benchmark::State& state, const std::string& folder) {
  EventWriter events(folder);
  int64_t step = 0;
  for (auto _ : state) events.scalar("train_loss", ++step, 2.3);
}

// The copy, its safetensors header and the digests of all tensors.
void checkpoint(benchmark::State& state) {
  const NamedTensors tensors = state_dict(*make_net("sjnet"));
  int64_t bytes = 0;
  for (auto _ : state) bytes += static_cast<int64_t>(checkpoint_bytes(tensors, "{}").size());
  state.SetBytesProcessed(bytes);
}

void permutation(benchmark::State& state) {
  const DistributedSampler sampler({.size = 50'000});
  int64_t epoch = 0;
  for (auto _ : state) benchmark::DoNotOptimize(sampler.permutation(++epoch).data());
}

template <typename Check>
void mebibyte(benchmark::State& state, Check check) {
  const std::string bytes(1 << 20, 'x');
  for (auto _ : state) benchmark::DoNotOptimize(check(bytes));
  state.SetBytesProcessed(state.iterations() << 20);
}

int run(int argc, char** argv) {
  World world;
  world.set_threads(1);
  world.choose_device(DeviceWish::cpu);
  const Folder folder;
  synthesize_cifar10(folder.path(), {.train_images = 5'000, .test_images = 100});
  const auto add = [](const char* name, auto piece) {
    benchmark::RegisterBenchmark(name, piece)->Unit(benchmark::kMicrosecond);
  };
  add("batch_of_64", [&](auto& state) { batch_pass(state, at::MemoryFormat::Contiguous, folder.path()); });
  add("batch_of_64_channels_last",
      [&](auto& state) { batch_pass(state, at::MemoryFormat::ChannelsLast, folder.path()); });
  add("backward_reduced", [&](auto& state) { backward(state, world, true); });
  add("backward_alone", [&](auto& state) { backward(state, world, false); });
  add("optimizer_step", &optimizer_step);
  add("event", [&](auto& state) { event(state, folder.path()); });
  add("checkpoint_bytes", &checkpoint);
  add("permutation_50000", &permutation);
  add("crc32c_1MiB", [](auto& state) { mebibyte(state, [](const std::string& bytes) { return crc32c(bytes); }); });
  add("xxh3_1MiB", [](auto& state) { mebibyte(state, [](const std::string& bytes) { return digest_bytes(bytes); }); });
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 64;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) { return lockstep::run(argc, argv); }
