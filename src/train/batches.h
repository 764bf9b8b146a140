// The batches of a run, made where the run computes.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <span>

#include "lockstep/augment.h"
#include "lockstep/cifar10.h"
#include "lockstep/settings.h"

namespace lockstep {

/// What the settings want done to training images, and to test images: these are normalised alike and shown as they
/// are.
Augmentation training_augmentation(const Settings& settings);
Augmentation test_augmentation(const Settings& settings);

at::MemoryFormat memory_format(const Settings& settings);

/// Images [n, 3, 32, 32] float32 and labels [n] int64 of given entries of a set. The bits do not depend on where they
/// are made.
///
/// In host memory, or on the device: then the whole set is copied there once, as bytes, and a batch is gathered and
/// converted there from indices, which are all that travels; nothing waits for the device.
class Batches {
 public:
  enum class Where { host, device };
  /// The set outlives it (on a device: until the constructor returns).
  Batches(const Cifar10& set, c10::Device device, Where where, at::MemoryFormat format,
          const Augmentation& augmentation);

  void load(std::span<const int64_t> indices, int64_t epoch, at::Tensor& images, at::Tensor& labels) const;

 private:
  at::Tensor host_memory(at::IntArrayRef sizes) const;

  const Cifar10& set_;
  c10::Device device_;
  Where where_;
  at::MemoryFormat format_;
  BatchPass pass_;
  at::Tensor bytes_;   // uint8 [N, 3, 32, 32]
  at::Tensor labels_;  // int64 [N]
  // float32, there: 255, and the channels' means and standard deviations [1, 3, 1, 1]
  at::Tensor top_;
  at::Tensor mean_;
  at::Tensor std_;
  at::Tensor channels_;  // int64 [1, 3, 1, 1]: 0, 1, 2
};

}  // namespace lockstep
