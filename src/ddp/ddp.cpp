#include "lockstep/ddp.h"

#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <torch/csrc/distributed/c10d/logger.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include "comm/group.h"
#include "ddp/agreement.h"
#include "ddp/module_state.h"
#include "lockstep/error.h"
#include "lockstep/world.h"

namespace lockstep {
namespace {

// Sends float32 buckets as bfloat16. The Reducer copies the result back into the bucket.
class Bf16Wire final : public c10d::CommHookInterface {
 public:
  Bf16Wire(c10::intrusive_ptr<c10d::ProcessGroup> group, int size) : group_(std::move(group)), size_(size) {}

  c10::intrusive_ptr<c10::ivalue::Future> runHook(c10d::GradBucket& bucket) override {
    at::Tensor& buffer = bucket.getBufferRef();
    buffer.mul_(1.0 / size_);
    std::vector<at::Tensor> sent = {buffer.scalar_type() == at::kFloat ? buffer.to(at::kBFloat16) : buffer};
    return group_->allreduce(sent)->getFuture();
  }

  at::Tensor parseHookResult(const c10::IValue& result) override {
    return c10d::detail::parseCppCommHookResult(result);
  }

 private:
  c10::intrusive_ptr<c10d::ProcessGroup> group_;
  int size_;
};

}  // namespace

struct DdpEngine::Impl {
  World& world;
  c10::intrusive_ptr<c10d::ProcessGroup> group;
  std::shared_ptr<torch::nn::Module> module;
  DdpOptions options;
  std::vector<at::Tensor> parameters;  // trainable ones, in order of registration, each once
  std::vector<std::string> names;
  std::shared_ptr<c10d::Reducer> reducer;
  std::shared_ptr<c10d::Logger>
      logger;  // the Reducer holds it weakly, and crashes with unused parameters when it is gone
  bool overlap = false;

  bool sync = true;            // false while a NoSync lives
  bool buffers_follow = true;  // as PyTorch: the forward after a synchronised one copies the buffers

  // Which parameters got their gradient in the backward pass under way.
  std::vector<unsigned> hooks;
  std::vector<char> arrived;
  bool end_queued = false;
  std::function<void()> when_ready;

  explicit Impl(World& of) : world(of) {}

  void share_buckets() {
    for (c10d::GradBucket& bucket : reducer->get_grad_buckets(/*return_zero_tensors=*/false)) {
      share_storage(world, bucket.getBufferRef());
    }
  }

  void end_of_backward() {
    end_queued = false;
    std::vector<std::string> missing;
    for (size_t i = 0; i < arrived.size(); ++i) {
      if (arrived[i] == 0) missing.push_back(names[i]);
    }
    if (!missing.empty() && !options.find_unused_parameters) {
      throw Error(
          ExitCode::internal,
          fmt::format("no gradient reached parameter {}{} in this backward pass", missing[0],
                      missing.size() > 1 ? fmt::format(" (and {} more of {})", missing.size() - 1, names.size()) : ""),
          "when the module may leave out parameters, set DdpOptions::find_unused_parameters; when it never uses "
          "them, freeze them with requires_grad_(false) before");
    }
    if (when_ready) when_ready();
    // All gradients of this rank are there. The Reducer waits for its buckets next; waiting here is faster.
    finish_collectives(world);
  }
};

DdpEngine::DdpEngine(World& world, std::shared_ptr<torch::nn::Module> module, const DdpOptions& options)
    : impl_(std::make_shared<Impl>(world)) {
  Impl& my = *impl_;
  my.group = world.process_group();
  my.module = std::move(module);
  my.options = options;
  my.overlap = options.overlap == DdpOptions::Overlap::automatic ? overlap_pays(world)
                                                                 : options.overlap == DdpOptions::Overlap::on;
  set_overlap(world, my.overlap);
  std::unordered_map<size_t, std::string> names;
  for (const auto& [name, parameter] : trainable_parameters(*my.module)) {
    names[my.parameters.size()] = name;
    my.names.push_back(name);
    my.parameters.push_back(parameter);
  }

  std::vector<std::string> lines = describe_module(*my.module);
  lines.push_back(fmt::format("bucket_bytes {}, find_unused_parameters {}, wire {}", options.bucket_bytes,
                              options.find_unused_parameters,
                              options.wire == DdpOptions::Wire::bf16 ? "bf16" : "fp32"));
  agree(world, "the module", lines);
  follow_rank_0(world, my.module->parameters());
  follow_rank_0(world, my.module->buffers());
  if (my.parameters.empty()) return;

  // As torch/nn/parallel/distributed.py builds its Reducer: buckets over the parameters in order, then reversed,
  // because gradients arrive about in the reverse order.
  const auto cap = static_cast<size_t>(options.bucket_bytes);
  const std::vector<bool> sparse(my.parameters.size(), false);
  auto [buckets, limits] = c10d::compute_bucket_assignment_by_size(my.parameters, {cap, cap}, sparse);
  std::reverse(buckets.begin(), buckets.end());
  my.reducer = std::make_shared<c10d::Reducer>(
      my.parameters, std::move(buckets), my.group, sparse, options.bucket_bytes, options.find_unused_parameters,
      /*gradient_as_bucket_view=*/true, std::move(names), /*first_bucket_bytes_cap=*/options.bucket_bytes,
      /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false, std::vector<int64_t>{});
  my.share_buckets();
  my.logger = std::make_shared<c10d::Logger>(my.reducer);
  my.reducer->set_logger(my.logger);
  if (options.wire == DdpOptions::Wire::bf16) {
    my.reducer->register_comm_hook(std::make_unique<Bf16Wire>(my.group, world.size()));
  }

  my.arrived.assign(my.parameters.size(), 0);
  for (size_t i = 0; i < my.parameters.size(); ++i) {
    my.hooks.push_back(my.parameters[i].register_hook([state = std::weak_ptr<Impl>(impl_), i](const at::Tensor&) {
      if (const auto impl = state.lock()) impl->arrived[i] = 1;
    }));
  }
}

DdpEngine::~DdpEngine() {
  for (size_t i = 0; i < impl_->hooks.size(); ++i) impl_->parameters[i].remove_hook(impl_->hooks[i]);
}

void DdpEngine::begin_forward() {
  if (!c10::GradMode::is_enabled()) return;
  if (impl_->reducer) {
    if (impl_->sync) impl_->reducer->prepare_for_forward();
    if (impl_->reducer->rebuild_buckets()) impl_->share_buckets();
  }
  if (impl_->buffers_follow) sync_buffers();
  impl_->buffers_follow = impl_->sync;
}

void DdpEngine::end_forward(const std::vector<at::Tensor>& outputs) {
  if (!c10::GradMode::is_enabled() || !impl_->reducer || !impl_->sync) return;
  impl_->reducer->prepare_for_backward(impl_->options.find_unused_parameters ? outputs : std::vector<at::Tensor>{});
  impl_->end_queued = false;
  std::fill(impl_->arrived.begin(), impl_->arrived.end(), char{0});
  for (const at::Tensor& output : outputs) {
    if (!output.requires_grad()) continue;
    // The first gradient to arrive queues the check that runs when all have.
    output.register_hook([state = std::weak_ptr<Impl>(impl_)](const at::Tensor&) {
      const auto impl = state.lock();
      if (!impl || impl->end_queued || !impl->sync) return;
      impl->end_queued = true;
      torch::autograd::Engine::get_default_engine().queue_callback([state] {
        if (const auto at_end = state.lock()) at_end->end_of_backward();
      });
    });
  }
}

void DdpEngine::zero_grad() {
  // Not Tensor::zero_ through the optimizer: it would detach gradients that are views of buckets, which throws.
  for (at::Tensor& parameter : impl_->parameters) parameter.mutable_grad() = at::Tensor();
}

void DdpEngine::sync_buffers() { follow_rank_0(impl_->world, impl_->module->buffers()); }

bool DdpEngine::set_sync(bool on) { return std::exchange(impl_->sync, on); }

bool DdpEngine::overlap() const { return impl_->overlap; }

void DdpEngine::on_gradients_ready(std::function<void()> call) { impl_->when_ready = std::move(call); }

}  // namespace lockstep
