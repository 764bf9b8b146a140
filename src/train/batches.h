// The batches of a run, made where the run computes.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <span>

#include "lockstep/cifar10.h"

namespace lockstep {

/// Images [n, 3, 32, 32] float32 in [0, 1] and labels [n] int64 of given entries of a set. The bits do not depend on
/// where they are made.
///
/// In host memory, or on the device: then the whole set is copied there once, as bytes, and a batch is gathered and
/// converted there from indices, which are all that travels; nothing waits for the device.
class Batches {
 public:
  enum class Where { host, device };
  /// The set outlives it (on a device: until the constructor returns).
  Batches(const Cifar10& set, c10::Device device, Where where, at::MemoryFormat format);

  void load(std::span<const int64_t> indices, at::Tensor& images, at::Tensor& labels) const;

 private:
  const Cifar10& set_;
  c10::Device device_;
  Where where_;
  at::MemoryFormat format_;
  at::Tensor bytes_;   // uint8 [N, 3, 32, 32]
  at::Tensor labels_;  // int64 [N]
  at::Tensor top_;     // 255, float32, there
};

}  // namespace lockstep
