// PyTorch's Reducer, and what of its state the engine needs to see.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <torch/csrc/distributed/c10d/reducer.hpp>
#include <vector>

namespace lockstep {

class BucketReducer final : public c10d::Reducer {
 public:
  using c10d::Reducer::Reducer;

  /// Local, after construction and after rebuild_buckets: gradients lie in the buckets, but are no views for autograd,
  /// which would keep Optimizer::zero_grad and Module::zero_grad from detaching them.
  void hand_out_plain_gradients();

  /// Local: gradients of later backward passes are only added up, until the next prepare_for_backward.
  void expect_nothing();

  /// Local: whether a backward pass has begun to fill buckets, and not filled all.
  bool unfinished() const;

  /// Local, after prepare_for_backward: whether the search for unused parameters found this one.
  bool is_unused(size_t parameter) const;

  /// Local, after a synchronised backward pass: whether a value of the buckets may not be finite. One pass over them
  /// and one read; wrong only where it says so of finite values whose sum is not.
  bool may_hold_non_finite() const;
};

}  // namespace lockstep
