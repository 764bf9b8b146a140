#include "ddp/bucket_reducer.h"

#include <ATen/ops/stack.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <mutex>

namespace lockstep {

void BucketReducer::hand_out_plain_gradients() {
  const std::lock_guard lock(mutex_);
  for (Bucket& bucket : buckets_) {
    for (size_t i = 0; i < bucket.bucket_views_in.size(); ++i) {
      at::Tensor& place = bucket.bucket_views_in[i];
      place = place.variable_data();  // the same memory
      at::Tensor& gradient = bucket.variables[i].mutable_grad();
      if (gradient.defined() && gradient.is_alias_of(place)) gradient = place;
    }
  }
}

void BucketReducer::expect_nothing() {
  const std::lock_guard lock(mutex_);
  expect_autograd_hooks_ = false;
}

bool BucketReducer::unfinished() const {
  const std::lock_guard lock(mutex_);
  return require_finalize_ && next_bucket_ < buckets_.size();
}

bool BucketReducer::is_unused(size_t parameter) const {
  const std::lock_guard lock(mutex_);
  return std::find(unused_parameters_.begin(), unused_parameters_.end(), parameter) != unused_parameters_.end();
}

bool BucketReducer::may_hold_non_finite() const {
  const c10::NoGradGuard no_grad;
  std::vector<at::Tensor> finite;
  for (const Bucket& bucket : buckets_) finite.push_back(bucket.gradients.sum().isfinite());
  return !at::stack(finite).all().item<bool>();
}

}  // namespace lockstep
