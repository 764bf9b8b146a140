// Which backward pass averages gradients, and whether all that arrive, arrive in it.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/weights.h"

namespace torch::autograd {
struct Node;
}
namespace torch::nn {
class Module;
}

namespace lockstep {

/// The Reducer averages the gradients of one backward pass after each prepare_for_backward, and those that arrive
/// otherwise stay this rank's own without a word. This class, whose hooks run before the Reducer's, throws from
/// backward in such a case: Error (usage) that names the cause and a parameter.
///
///     auto watch = BackwardWatch::make(*module, on_end, is_unused);   // before the Reducer is made
///     watch->check_module();                                          // each forward
///     watch->expect_pass(outputs);   or   watch->expect_none();       // each forward, after it
///
/// Local. Callbacks run in autograd's thread; the caller of backward waits meanwhile.
class BackwardWatch : public std::enable_shared_from_this<BackwardWatch> {
 public:
  struct Hooks {
    std::function<void()> begins;           ///< before a pass fills buckets
    std::function<bool(size_t)> is_unused;  ///< whether a parameter may stay without a gradient in this pass
    std::function<void()> all_arrived;      ///< at the end of the pass, with all gradients of this rank there
  };

  static std::shared_ptr<BackwardWatch> make(const torch::nn::Module& module, Hooks hooks);
  ~BackwardWatch();
  BackwardWatch(const BackwardWatch&) = delete;
  BackwardWatch& operator=(const BackwardWatch&) = delete;

  /// The trainable parameters at construction.
  const NamedTensors& parameters() const { return parameters_; }

  /// False while a NoSync lives. Gives what was set before.
  bool set_sync(bool on);
  bool sync() const { return sync_; }

  /// Throws Error (usage) when a parameter was converted or moved, made trainable or added since construction. Added
  /// ones are looked for in every 64th call, because that walks the module.
  void check_module();

  /// Whether any parameter takes a gradient now.
  bool anything_trainable() const;

  /// After a forward pass: gradients that come from `outputs` are averaged. Or not: under a NoSync.
  void expect_pass(const std::vector<at::Tensor>& outputs);
  void expect_none();
  bool expects_pass() const { return pass_ == Pass::expected; }

 private:
  // What the last forward pass announced, and what became of it.
  enum class Pass { none, without_sync, expected, averaged };

  struct Accumulation {
    c10::intrusive_ptr<torch::autograd::Node> node;
    uintptr_t hook;
  };

  BackwardWatch(const torch::nn::Module& module, Hooks hooks);
  void add_hooks();
  void output_has_gradient();
  void gradient_arrived(size_t parameter);
  void queue_end();
  void end_of_backward();
  bool belongs_to_another(const at::Tensor& parameter) const;
  [[noreturn]] void refuse(size_t parameter) const;

  const torch::nn::Module& module_;
  Hooks hooks_;
  NamedTensors parameters_;
  NamedTensors frozen_;
  std::vector<Accumulation> accumulations_;
  bool sync_ = true;
  int64_t forwards_ = 0;
  Pass pass_ = Pass::none;
  std::vector<char> arrived_;
  bool end_queued_ = false;
};

}  // namespace lockstep
