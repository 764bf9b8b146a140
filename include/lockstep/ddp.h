// Data-parallel training of any module: the same parameters on every rank, gradients averaged during backward.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "lockstep/parameters.h"

namespace torch::nn {
class Module;
}

namespace lockstep {

class World;

struct DdpOptions {
  /// Gradients are reduced in buckets of about this many bytes, the first one included.
  int64_t bucket_bytes = 256 * 1024;
  /// Allows forward passes that leave parameters unused, on some ranks or on all; costs a walk of the graph and a small
  /// all-reduce in every step.
  bool find_unused_parameters = false;
  /// Buffers follow rank 0, at construction and in forward. False, as Python's: each rank keeps its own.
  bool broadcast_buffers = true;
  /// Each synchronised backward pass checks the averaged gradients, which are the same on all ranks. One that is not
  /// finite throws AgreedError (diverged) from backward on every rank, naming the first such parameter. Costs one read
  /// of the gradients; on a GPU the host waits for it.
  bool require_finite_gradients = false;

  /// Whether buckets travel while backward computes the next ones. `automatic`: between hosts, and where every rank has
  /// a core beyond its threads. Results do not depend on it.
  enum class Overlap { automatic, on, off };
  Overlap overlap = Overlap::automatic;

  /// How float32 gradients travel. bf16: rounded to bfloat16 (8 bits of mantissa) after the multiplication by 1 / world
  /// size and after each addition, which halves the bytes and keeps about 2 to 3 digits; docs/ddp.md has figures.
  enum class Wire { fp32, bf16 };
  Wire wire = Wire::fp32;
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
  void sync_buffers();
  bool set_sync(bool on);  // gives what was set before
  bool overlap() const;
  void on_gradients_ready(std::function<void()> call);

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

/// As long as it lives, backward passes only add to the gradients of this rank and nothing is sent.
class NoSync {
 public:
  explicit NoSync(DdpEngine& engine) : engine_(&engine), before_(engine.set_sync(false)) {}
  ~NoSync() {
    if (engine_ != nullptr) engine_->set_sync(before_);
  }
  NoSync(NoSync&& other) noexcept : engine_(std::exchange(other.engine_, nullptr)), before_(other.before_) {}
  NoSync& operator=(NoSync&&) = delete;

 private:
  DdpEngine* engine_;
  bool before_;
};

/// Wraps a module so that `loss.backward()` returns with gradients averaged over all ranks, as PyTorch's
/// DistributedDataParallel does, on the same engine (c10d::Reducer) and with the same bits.
///
///     lockstep::World world;
///     auto net = std::make_shared<MyNet>();
///     lockstep::DistributedDataParallel ddp(world, net);
///     torch::optim::SGD optimizer(ddp.parameters(), 0.01);
///     for (…) {
///       auto loss = cross_entropy(ddp.forward(images), labels);   // mean over this rank's images
///       optimizer.zero_grad();
///       loss.backward();
///       optimizer.step();
///     }
///
/// The module's forward gives a tensor, or tensors in vectors, tuples, pairs, optionals and maps. Its parameters may be
/// shared between layers, frozen (also all of them), of several dtypes and of any strides, but not sparse or expanded;
/// which ones there are and which are trainable must not change afterwards (all may be frozen for a pass).
/// The module is where World::device says, all of it; on GPUs gradients travel by NCCL.
///
/// Collective, in the same order on every rank: construction (agrees on names, shapes, dtypes, strides and versions,
/// and copies parameters and buffers from rank 0), forward (buffers follow rank 0, as in PyTorch: the forward after a
/// synchronised one copies them) and backward, unless a NoSync lives. Gradients are multiplied by 1 / world size, then
/// summed; with a loss that is the mean over equal shares this is the gradient of the global mean. With unequal shares
/// multiply the loss by `share_of_mean`. Without gradient mode, forward is only the module's.
///
/// One backward pass after each forward averages gradients; it may go through the outputs of several forward passes.
/// autograd::grad is none: a gradient penalty may come before it.
///
/// Throws: AgreedError (launch, usage) from the constructor when the ranks' modules or options differ, naming the first
/// difference, or cannot be used. From backward or the next forward, on the rank that sees it (end the job):
/// Error (internal) when a parameter got no gradient, Error (usage) when gradients would not be averaged: a second
/// backward pass, no_sync over only one of forward and backward, a module that was converted, both naming a parameter;
/// Error (rank_lost) when communication fails or a deadline passes (World::set_deadline).
/// The World outlives it. One thread.
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
    std::vector<at::Tensor> tensors;
    collect(output, tensors);
    engine_.end_forward(tensors);
    return output;
  }

  /// Local: the module's parameters for an optimizer. One that layers share is there once, while Module::parameters()
  /// lists it for each layer, and an optimizer would step it as often.
  std::vector<at::Tensor> parameters() const { return lockstep::parameters(*module_); }
  NamedTensors named_parameters() const { return lockstep::named_parameters(*module_); }

  /// Local: forgets the gradients, as Optimizer::zero_grad and Module::zero_grad do.
  void zero_grad() { engine_.zero_grad(); }

  /// Local: gradients of several backward passes add up without communication while the result lives; the first pass
  /// after it, forward and backward, averages them all:
  ///
  ///     { auto guard = ddp.no_sync(); loss_of(first_half).backward(); }
  ///     loss_of(second_half).backward();
  [[nodiscard]] NoSync no_sync() { return NoSync(engine_); }

  /// Collective: rank 0's buffers (the statistics of batch norms) replace those of all ranks. For evaluation and
  /// saving: during training each rank's own forward passes change them.
  void sync_buffers() { engine_.sync_buffers(); }

  /// Local: whether communication overlaps backward, `automatic` resolved.
  bool overlap() const { return engine_.overlap(); }

  /// Local: `call` runs in each synchronised backward pass when all gradients of this rank are there and what is left
  /// is waiting for other ranks; on a GPU in autograd's thread, with the stream that waits as the current one.
  void on_gradients_ready(std::function<void()> call) { engine_.on_gradients_ready(std::move(call)); }

  const std::shared_ptr<Module>& module() const { return module_; }

 private:
  using Tensors = std::vector<at::Tensor>;
  static void collect(const at::Tensor& output, Tensors& tensors) { tensors.push_back(output); }
  template <typename T>
  static void collect(const std::vector<T>& outputs, Tensors& tensors) {
    for (const T& output : outputs) collect(output, tensors);
  }
  template <typename T>
  static void collect(const std::optional<T>& output, Tensors& tensors) {
    if (output) collect(*output, tensors);
  }
  template <typename Key, typename T>
  static void collect(const std::map<Key, T>& outputs, Tensors& tensors) {
    for (const auto& [key, output] : outputs) collect(output, tensors);
  }
  template <typename First, typename Second>
  static void collect(const std::pair<First, Second>& outputs, Tensors& tensors) {
    collect(outputs.first, tensors);
    collect(outputs.second, tensors);
  }
  template <typename... T>
  static void collect(const std::tuple<T...>& outputs, Tensors& tensors) {
    std::apply([&](const auto&... output) { (collect(output, tensors), ...); }, outputs);
  }

  std::shared_ptr<Module> module_;
  DdpEngine engine_;
};

/// The factor for the loss of a rank whose mean is over `mine` of `all` images: the average over `world_size` ranks of
/// the gradients so scaled is the gradient of the mean over all images. Exactly 1 when the shares are equal.
inline double share_of_mean(int64_t mine, int64_t all, int world_size) {
  return static_cast<double>(mine) * world_size / static_cast<double>(all);
}

}  // namespace lockstep
