// How far tensors are apart.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

namespace lockstep::test {

inline constexpr auto kChannelsLast = at::MemoryFormat::ChannelsLast;

/// The largest difference, relative to the largest value of `right`.
inline double difference(const at::Tensor& one, const at::Tensor& right) {
  const at::Tensor exact = right.to(at::kDouble);
  return ((one.to(at::kDouble) - exact).abs().max() / exact.abs().max()).item<double>();
}

/// Whether both have the same strides, in dimensions of more than one entry: elsewhere a stride means nothing.
inline bool same_layout(const at::Tensor& one, const at::Tensor& other) {
  if (one.sizes() != other.sizes()) return false;
  for (int64_t d = 0; d < one.dim(); ++d) {
    if (one.size(d) > 1 && one.stride(d) != other.stride(d)) return false;
  }
  return true;
}

}  // namespace lockstep::test
