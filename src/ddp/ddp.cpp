#include "lockstep/ddp.h"

#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <torch/csrc/distributed/c10d/logger.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>
#include <unordered_map>

#include "comm/group.h"
#include "ddp/agreement.h"
#include "ddp/backward_watch.h"
#include "ddp/bucket_reducer.h"
#include "ddp/module_state.h"
#include "lockstep/error.h"
#include "lockstep/parameters.h"
#include "lockstep/world.h"
#include "world/world_impl.h"

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

struct DdpEngine::Impl : std::enable_shared_from_this<DdpEngine::Impl> {
  World& world;
  std::weak_ptr<const char> life_of_world;
  c10::intrusive_ptr<c10d::ProcessGroup> group;
  std::shared_ptr<torch::nn::Module> module;
  DdpOptions options;
  std::shared_ptr<BackwardWatch> watch;
  std::shared_ptr<BucketReducer> reducer;  // null where nothing is trained
  std::shared_ptr<c10d::Logger>
      logger;  // the Reducer holds it weakly, and crashes with unused parameters when it is gone
  bool overlap = false;
  bool buffers_follow = true;  // as PyTorch: the forward after a synchronised one copies the buffers
  std::function<void()> when_ready;

  explicit Impl(World& of) : world(of), life_of_world(of.impl().life) {}

  void look_for_world() const {
    if (!life_of_world.expired()) return;
    throw Error(ExitCode::usage, "the World ended before its DistributedDataParallel",
                "build the World first, so that it ends last");
  }

  // The ranks agree on these already.
  void check_request() const {
    refuse_no_module("DistributedDataParallel", module.get());
    if (options.bucket_bytes <= 0) {
      throw AgreedError(Error(ExitCode::usage, fmt::format("DdpOptions::bucket_bytes is {}", options.bucket_bytes),
                              "give a positive number of bytes; 262144 is the default"),
                        /*rank=*/0);
    }
  }

  void prepare_buckets() {
    reducer->hand_out_plain_gradients();
    for (c10d::GradBucket& bucket : reducer->get_grad_buckets(/*return_zero_tensors=*/false)) {
      share_storage(world, bucket.getBufferRef());
    }
  }

  void gradients_are_there() {
    if (when_ready) when_ready();
    // All gradients of this rank are there. The Reducer waits for its buckets next; waiting here is faster.
    finish_collectives(world);
    if (!options.require_finite_gradients) return;
    // After what the Reducer queued for the end, which leaves the averages in the buckets.
    torch::autograd::Engine::get_default_engine().queue_callback([mine = weak_from_this()] {
      if (const auto impl = mine.lock()) impl->check_finite();
    });
  }

  void check_finite() const {
    if (!reducer->may_hold_non_finite()) return;
    for (const auto& [name, parameter] : watch->parameters()) {
      if (!parameter.grad().defined() || parameter.grad().isfinite().all().item<bool>()) continue;
      throw AgreedError(Error(ExitCode::diverged, fmt::format("the averaged gradient of {} is not finite", name),
                              "go back to the last good weights; a lower learning rate or a limit on the norm of the "
                              "gradients may help"),
                        /*rank=*/0);
    }
  }
};

DdpEngine::DdpEngine(World& world, std::shared_ptr<torch::nn::Module> module, const DdpOptions& options)
    : impl_(std::make_shared<Impl>(world)) {
  Impl& my = *impl_;
  my.group = world.process_group();
  my.module = std::move(module);
  my.options = options;

  std::vector<std::string> lines = {"no module"};
  if (my.module) lines = describe_module(*my.module);
  lines.push_back(fmt::format(
      "bucket_bytes {}, find_unused_parameters {}, broadcast_buffers {}, require_finite_gradients {}, wire {}",
      options.bucket_bytes, options.find_unused_parameters, options.broadcast_buffers, options.require_finite_gradients,
      options.wire == DdpOptions::Wire::bf16 ? "bf16" : "fp32"));
  agree(world, "the module", lines);
  my.check_request();
  refuse_unusual_tensors(*my.module);

  my.overlap = options.overlap == DdpOptions::Overlap::automatic ? overlap_pays(world)
                                                                 : options.overlap == DdpOptions::Overlap::on;
  set_overlap(world, my.overlap);
  follow_rank_0(world, parameters(*my.module));
  if (options.broadcast_buffers) follow_rank_0(world, my.module->buffers());

  my.watch = BackwardWatch::make(
      *my.module,
      {.begins = [&my] { my.look_for_world(); },
       .is_unused = [&my](size_t i) { return my.options.find_unused_parameters && my.reducer->is_unused(i); },
       .all_arrived = [&my] { my.gradients_are_there(); }});
  if (my.watch->parameters().empty()) return;

  // As torch/nn/parallel/distributed.py builds its Reducer: buckets over the parameters in order, then reversed,
  // because gradients arrive about in the reverse order.
  std::vector<at::Tensor> trained;
  std::unordered_map<size_t, std::string> names;
  for (const auto& [name, parameter] : my.watch->parameters()) {
    names[trained.size()] = name;
    trained.push_back(parameter);
  }
  const auto cap = static_cast<size_t>(options.bucket_bytes);
  const std::vector<bool> sparse(trained.size(), false);
  auto [buckets, limits] = c10d::compute_bucket_assignment_by_size(trained, {cap, cap}, sparse);
  std::reverse(buckets.begin(), buckets.end());
  my.reducer = std::make_shared<BucketReducer>(
      trained, std::move(buckets), my.group, sparse, options.bucket_bytes, options.find_unused_parameters,
      /*gradient_as_bucket_view=*/true, std::move(names), /*first_bucket_bytes_cap=*/options.bucket_bytes,
      /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false, std::vector<int64_t>{});
  my.prepare_buckets();
  my.logger = std::make_shared<c10d::Logger>(my.reducer);
  my.reducer->set_logger(my.logger);
  if (options.wire == DdpOptions::Wire::bf16) {
    my.reducer->register_comm_hook(std::make_unique<Bf16Wire>(my.group, world.size()));
  }
}

DdpEngine::~DdpEngine() = default;

void DdpEngine::begin_forward() {
  if (!c10::GradMode::is_enabled()) return;
  Impl& my = *impl_;
  my.look_for_world();
  const bool sync = my.watch->sync();
  if (my.reducer) {
    my.watch->check_module();
    if (my.reducer->unfinished()) {
      throw Error(ExitCode::usage, "the last backward pass ended early, and left gradients that are not averaged",
                  "end the job after an error from backward()");
    }
    if (sync) my.reducer->prepare_for_forward();
    if (my.reducer->rebuild_buckets()) my.prepare_buckets();
  }
  if (my.options.broadcast_buffers && my.buffers_follow) sync_buffers();
  my.buffers_follow = sync;
}

void DdpEngine::end_forward(const std::vector<at::Tensor>& outputs) {
  Impl& my = *impl_;
  if (!c10::GradMode::is_enabled() || !my.reducer) return;
  if (!my.watch->sync()) {
    if (my.watch->expects_pass()) my.reducer->expect_nothing();
    my.watch->expect_none();
    return;
  }
  if (!my.watch->anything_trainable()) return;  // frozen for this pass, as a GAN's discriminator for the generator's
  my.reducer->prepare_for_backward(my.options.find_unused_parameters ? outputs : std::vector<at::Tensor>{});
  my.watch->expect_pass(outputs);
}

void DdpEngine::zero_grad() {
  for (const auto& parameter : impl_->watch->parameters()) parameter.second.mutable_grad() = at::Tensor();
}

void DdpEngine::sync_buffers() {
  impl_->look_for_world();
  follow_rank_0(impl_->world, impl_->module->buffers());
}

bool DdpEngine::set_sync(bool on) { return impl_->watch->set_sync(on); }

bool DdpEngine::overlap() const { return impl_->overlap; }

void DdpEngine::on_gradients_ready(std::function<void()> call) { impl_->when_ready = std::move(call); }

}  // namespace lockstep
