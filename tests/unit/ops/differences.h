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

}  // namespace lockstep::test
