// Operators of src/kernels beside LibTorch's: forward and backward of 64 channels_last images, one thread.
//
//     build/release/kernels --benchmark_filter=conv
#include <ATen/Parallel.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/rand.h>
#include <benchmark/benchmark.h>

#include "lockstep/batch_norm_gelu.h"
#include "lockstep/fast_conv.h"
#include "lockstep/max_pool.h"

namespace lockstep {
namespace {

at::Tensor images_of(int64_t channels, int64_t pixels, bool of_images) {
  return at::rand({64, channels, pixels, pixels}).contiguous(at::MemoryFormat::ChannelsLast).requires_grad_(of_images);
}

template <typename Operator>
void forward_backward(benchmark::State& state, at::Tensor images, Operator apply) {
  at::set_num_threads(1);
  const at::Tensor incoming = at::ones_like(apply(images).detach());
  for (auto _ : state) {
    images.mutable_grad() = at::Tensor();
    apply(images).backward(incoming);
  }
  state.SetItemsProcessed(state.iterations() * images.size(0));
}

void conv(benchmark::State& state, const torch::nn::Conv2dOptions& options, int64_t pixels, bool own) {
  torch::nn::Conv2d module(options);
  module->to(at::kFloat);
  module->weight.set_data(module->weight.contiguous(at::MemoryFormat::ChannelsLast));
  forward_backward(state, images_of(options.in_channels(), pixels, options.in_channels() > 4),
                   [&](const at::Tensor& images) {
                     module->zero_grad();
                     return own ? fast_conv2d(images, *module) : module->forward(images);
                   });
}

void max_pool(benchmark::State& state, bool own) {
  forward_backward(state, images_of(32, 32, true),
                   [&](const at::Tensor& images) { return own ? max_pool2x2(images) : at::max_pool2d(images, 2); });
}

void norm_gelu(benchmark::State& state, bool own) {
  torch::nn::BatchNorm2d norm(64);
  forward_backward(state, images_of(64, 16, true), [&](const at::Tensor& images) {
    norm->zero_grad();
    return own ? batch_norm_gelu(images, norm) : at::gelu(norm->forward(images));
  });
}

void add_all() {
  using Options = torch::nn::Conv2dOptions;
  const auto add = [](const std::string& name, const auto& piece) {
    for (const bool own : {true, false}) {
      benchmark::RegisterBenchmark((name + (own ? "/lockstep" : "/libtorch")).c_str(), [piece,
                                                                                        own](benchmark::State& state) {
        piece(state, own);
      })->Unit(benchmark::kMicrosecond);
    }
  };
  add("conv_5x5_3_to_32", [](auto& state, bool own) { conv(state, Options(3, 32, 5).padding(2), 32, own); });
  add("conv_5x5_32_to_32", [](auto& state, bool own) { conv(state, Options(32, 32, 5).padding(2), 16, own); });
  add("conv_3x3_64_to_64", [](auto& state, bool own) { conv(state, Options(64, 64, 3).padding(1), 16, own); });
  add("max_pool_2x2", [](auto& state, bool own) { max_pool(state, own); });
  add("batch_norm_gelu", [](auto& state, bool own) { norm_gelu(state, own); });
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  lockstep::add_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 64;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
