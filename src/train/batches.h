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

  /// On a device, load() in its two halves: what a batch is made from travels there, and the batch is made of it.
  struct Chosen {
    at::Tensor images;  ///< int64 [n]: which ones
    at::Tensor places;  ///< int64 [2, n, 32], if they are mirrored or moved: where rows and columns come from
  };
  /// Into the tensors of `chosen` where these have the sizes of such a batch, else into new ones.
  void choose(std::span<const int64_t> indices, int64_t epoch, Chosen& chosen) const;
  void make(const Chosen& chosen, at::Tensor& images, at::Tensor& labels) const;

 private:
  at::Tensor host_memory(at::IntArrayRef sizes) const;
  bool moves() const;

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
