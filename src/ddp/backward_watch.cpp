#include "ddp/backward_watch.h"

#include <c10/core/GradMode.h>
#include <c10/core/ScalarType.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/node.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <mutex>
#include <unordered_set>
#include <utility>

#include "ddp/module_state.h"
#include "lockstep/error.h"
#include "lockstep/parameters.h"

namespace lockstep {
namespace {

namespace autograd = torch::autograd;

// Runs when a gradient has been added to its parameter's.
class AfterAccumulation final : public autograd::FunctionPostHook {
 public:
  explicit AfterAccumulation(std::function<void()> call) : call_(std::move(call)) {}
  autograd::variable_list operator()(const autograd::variable_list& outputs, const autograd::variable_list&) override {
    call_();
    return outputs;
  }

 private:
  std::function<void()> call_;
};

// All that live, for a module that is wrapped twice. Never destroyed, since a wrapper may live as long as the process.
struct Every {
  std::mutex mutex;
  std::vector<const BackwardWatch*> watches;
};
Every& every() {
  static Every* const all = new Every;
  return *all;
}

// Whether the backward pass under way goes to all leaves: not that of autograd::grad, nor one for chosen inputs.
bool goes_everywhere() {
  const auto* const chosen = autograd::get_current_graph_task_exec_info();
  return chosen == nullptr || chosen->empty();
}

}  // namespace

std::shared_ptr<BackwardWatch> BackwardWatch::make(const torch::nn::Module& module, Hooks hooks) {
  const std::shared_ptr<BackwardWatch> watch(new BackwardWatch(module, std::move(hooks)));
  watch->add_hooks();
  return watch;
}

BackwardWatch::BackwardWatch(const torch::nn::Module& module, Hooks hooks)
    : module_(module), hooks_(std::move(hooks)), parameters_(trainable_parameters(module)) {
  for (auto& parameter : named_parameters(module)) {
    if (!parameter.second.requires_grad()) frozen_.push_back(std::move(parameter));
  }
  arrived_.assign(parameters_.size(), 0);
  const std::lock_guard lock(every().mutex);
  every().watches.push_back(this);
}

void BackwardWatch::add_hooks() {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Accumulation& accumulation = accumulations_.emplace_back();
    accumulation.node = autograd::impl::grad_accumulator(parameters_[i].second);
    accumulation.hook =
        accumulation.node->add_post_hook(std::make_unique<AfterAccumulation>([mine = weak_from_this(), i] {
          if (const auto watch = mine.lock()) watch->gradient_arrived(i);
        }));
  }
}

BackwardWatch::~BackwardWatch() {
  for (const Accumulation& accumulation : accumulations_) accumulation.node->del_post_hook(accumulation.hook);
  const std::lock_guard lock(every().mutex);
  std::erase(every().watches, this);
}

bool BackwardWatch::set_sync(bool on) { return std::exchange(sync_, on); }

void BackwardWatch::check_module() {
  const auto changed = [](const std::string& name, const std::string& how) {
    throw Error(
        ExitCode::usage,
        fmt::format("parameter {} {} since the module was wrapped, so its gradient would not be averaged", name, how),
        "convert, move, freeze and complete the module first, then wrap it; after a change wrap it again");
  };
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const auto& [name, parameter] = parameters_[i];
    // Another dtype or device makes autograd drop the node with our hooks.
    if (autograd::impl::try_get_grad_accumulator(parameter) == accumulations_[i].node) continue;
    changed(name, fmt::format("was converted or moved (it is {} on {} now)",
                              c10::getDtypeNames(parameter.scalar_type()).first, parameter.device().str()));
  }
  for (const auto& [name, parameter] : frozen_) {
    if (parameter.requires_grad()) changed(name, "was made trainable");
  }
  if (forwards_++ % 64 != 0) return;
  std::unordered_set<const c10::TensorImpl*> known;
  for (const auto& parameter : parameters_) known.insert(parameter.second.unsafeGetTensorImpl());
  for (const auto& [name, parameter] : trainable_parameters(module_)) {
    if (!known.contains(parameter.unsafeGetTensorImpl())) changed(name, "was added");
  }
}

bool BackwardWatch::anything_trainable() const {
  return std::any_of(parameters_.begin(), parameters_.end(),
                     [](const auto& parameter) { return parameter.second.requires_grad(); });
}

void BackwardWatch::expect_none() { pass_ = Pass::without_sync; }

void BackwardWatch::expect_pass(const std::vector<at::Tensor>& outputs) {
  pass_ = Pass::expected;
  end_queued_ = false;
  std::fill(arrived_.begin(), arrived_.end(), char{0});
  for (const at::Tensor& output : outputs) {
    if (!output.requires_grad() || output.is_leaf()) continue;
    output.register_hook([mine = weak_from_this()](const at::Tensor&) {
      if (const auto watch = mine.lock()) {
        watch->output_has_gradient();
      } else if (goes_everywhere()) {
        throw Error(ExitCode::usage,
                    "the DistributedDataParallel of this forward pass ended before its backward pass, whose gradients "
                    "would not be averaged",
                    "let the wrapper live as long as the graphs of its forward passes");
      }
    });
  }
}

// Where no parameter gets a gradient, this alone sees the pass.
void BackwardWatch::output_has_gradient() {
  if (sync_ && pass_ == Pass::expected && goes_everywhere()) queue_end();
}

void BackwardWatch::gradient_arrived(size_t parameter) {
  const bool averages = pass_ == Pass::expected;
  if (sync_ != averages && !belongs_to_another(parameters_[parameter].second)) refuse(parameter);
  if (!sync_ || !averages) return;
  if (c10::GradMode::is_enabled()) {
    throw Error(
        ExitCode::usage,
        fmt::format("backward(create_graph = true) would average the gradient of {}, but not those taken of it",
                    parameters_[parameter].first),
        "take the inner gradients with autograd::grad(…, create_graph = true), then call backward() on the loss");
  }
  refuse_sparse_gradient(parameters_[parameter].first, parameters_[parameter].second);
  arrived_[parameter] = 1;
  queue_end();
}

void BackwardWatch::queue_end() {
  if (std::exchange(end_queued_, true)) return;
  hooks_.begins();
  autograd::Engine::get_default_engine().queue_callback([mine = weak_from_this()] {
    if (const auto watch = mine.lock()) watch->end_of_backward();
  });
}

void BackwardWatch::end_of_backward() {
  end_queued_ = false;
  if (autograd::get_current_node())
    return;  // a pass within a node of another, as a checkpoint runs it, is a part of it
  std::vector<std::string> missing;
  for (size_t i = 0; i < arrived_.size(); ++i) {
    if (arrived_[i] == 0 && !hooks_.is_unused(i)) missing.push_back(parameters_[i].first);
  }
  if (!missing.empty()) {
    throw Error(
        ExitCode::internal,
        fmt::format(
            "no gradient reached parameter {}{} in this backward pass", missing[0],
            missing.size() > 1 ? fmt::format(" (and {} more of {})", missing.size() - 1, parameters_.size()) : ""),
        "when the module may leave out parameters, set DdpOptions::find_unused_parameters; when it never uses "
        "them, freeze them with requires_grad_(false) before; when the loss leaves out outputs of the module, "
        "add 0 * output.sum() to it");
  }
  pass_ = Pass::averaged;
  hooks_.all_arrived();
}

// A module that is wrapped twice, or a part of it: the other wrapper has announced this pass.
bool BackwardWatch::belongs_to_another(const at::Tensor& parameter) const {
  const std::lock_guard lock(every().mutex);
  const auto& watches = every().watches;
  return std::any_of(watches.begin(), watches.end(), [&](const BackwardWatch* other) {
    return other != this && other->sync_ == (other->pass_ == Pass::expected) &&
           std::any_of(other->parameters_.begin(), other->parameters_.end(),
                       [&](const auto& theirs) { return theirs.second.is_same(parameter); });
  });
}

void BackwardWatch::refuse(size_t parameter) const {
  const std::string& name = parameters_[parameter].first;
  const std::string whole_guard = "hold the guard of no_sync() over forward and backward, or over neither";
  if (!sync_) {
    throw Error(
        ExitCode::usage,
        fmt::format("a backward pass runs under no_sync(), but its forward pass ran outside: the gradient of {} "
                    "would be averaged nevertheless",
                    name),
        whole_guard);
  }
  switch (pass_) {
    case Pass::without_sync:
      throw Error(ExitCode::usage,
                  fmt::format("a forward pass ran under no_sync(), but its backward pass runs outside: the gradient of "
                              "{} would not be averaged",
                              name),
                  whole_guard);
    case Pass::averaged:
      throw Error(ExitCode::usage,
                  fmt::format("a second backward pass came after one ddp.forward: the gradient of {} would not be "
                              "averaged",
                              name),
                  "add up the losses and call backward() once; or run each pass but the last, forward and backward, "
                  "under no_sync(); and call ddp.forward, not the module's own forward");
    default:
      throw Error(
          ExitCode::usage,
          fmt::format("no ddp.forward came before this backward pass: the gradient of {} would not be averaged", name),
          "call ddp.forward, not the module's own forward; for gradients of this rank only, hold the guard of "
          "no_sync()");
  }
}

}  // namespace lockstep
