// Data-parallel training of any module: the same parameters on every rank, gradients averaged during backward.
#pragma once

#include <cstdint>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace torch::nn {
class Module;
}

namespace lockstep {

class World;

struct DdpOptions {
  /// Gradients are reduced in buckets of about this many bytes, the first one included.
  int64_t bucket_bytes = 256 * 1024;
  /// Allows forward passes that leave parameters unused; costs a walk of the graph in every step.
  bool find_unused_parameters = false;
};

/// What DistributedDataParallel does for every type of module. Not for direct use.
class DdpEngine {
 public:
  DdpEngine(World& world, std::shared_ptr<torch::nn::Module> module, const DdpOptions& options);
  ~DdpEngine();
  DdpEngine(const DdpEngine&) = delete;
  DdpEngine& operator=(const DdpEngine&) = delete;

  void begin_forward();
  void end_forward(const std::vector<at::Tensor>& outputs);
  void zero_grad();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Wraps a module so that `loss.backward()` returns with gradients averaged over all ranks, as PyTorch's
/// DistributedDataParallel does, on the same engine (c10d::Reducer) and with the same bits.
///
///     lockstep::World world;
///     auto net = std::make_shared<MyNet>();
///     lockstep::DistributedDataParallel ddp(world, net);
///     torch::optim::SGD optimizer(net->parameters(), 0.01);
///     for (…) {
///       auto loss = cross_entropy(ddp.forward(images), labels);   // mean over this rank's images
///       ddp.zero_grad();                                           // not optimizer.zero_grad(): gradients are views
///       of buckets loss.backward(); optimizer.step();
///     }
///
/// Collective, in the same order on every rank: construction (compares shapes, copies parameters and buffers from rank
/// 0), forward (buffers follow rank 0) and backward. Gradients are multiplied by 1 / world size, then summed; with a
/// loss that is the mean over equal shares this is the gradient of the global mean. Without gradient mode, forward is
/// only the module's. Throws c10::Error when the ranks' modules differ, Error (rank_lost) from backward when
/// communication fails. The World outlives it. One thread.
template <typename Module>
class DistributedDataParallel {
 public:
  DistributedDataParallel(World& world, std::shared_ptr<Module> module, const DdpOptions& options = {})
      : module_(std::move(module)), engine_(world, module_, options) {}

  /// The module's own forward, and the start of a step's gradient reduction.
  template <typename... Inputs>
  auto forward(Inputs&&... inputs) {
    engine_.begin_forward();
    auto output = module_->forward(std::forward<Inputs>(inputs)...);
    engine_.end_forward(tensors_of(output));
    return output;
  }

  /// Local: forgets the gradients. Use it in place of Optimizer::zero_grad and Module::zero_grad.
  void zero_grad() { engine_.zero_grad(); }

  const std::shared_ptr<Module>& module() const { return module_; }

 private:
  static std::vector<at::Tensor> tensors_of(const at::Tensor& output) { return {output}; }
  static std::vector<at::Tensor> tensors_of(const std::vector<at::Tensor>& outputs) { return outputs; }
  template <typename... Tensors>
  static std::vector<at::Tensor> tensors_of(const std::tuple<Tensors...>& outputs) {
    return std::apply([](const auto&... tensors) { return std::vector<at::Tensor>{tensors...}; }, outputs);
  }

  std::shared_ptr<Module> module_;
  DdpEngine engine_;
};

}  // namespace lockstep
