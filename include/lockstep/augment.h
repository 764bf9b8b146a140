// Batches of CIFAR-10 images as a network takes them: mirrored, shifted, normalised, in one pass over the bytes.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <span>

#include "lockstep/cifar10.h"

namespace lockstep {

/// What is done to an image on its way into a batch.
struct Augmentation {
  /// The channels' mean and standard deviation over the training images, each byte taken as a fraction of 255.
  static constexpr std::array<float, 3> kMean = {0.4914F, 0.4822F, 0.4465F};
  static constexpr std::array<float, 3> kStd = {0.2470F, 0.2435F, 0.2616F};

  bool normalize = false;  ///< (byte / 255 - mean) / std of its channel, else byte / 255: torchvision's bits either way

  /// Which images are mirrored, left to right. random: half of them, drawn anew for each image and epoch.
  /// alternating: half of them in epoch 0, drawn once, the others in epoch 1, and so on, so that two epochs show each
  /// image both ways (Keller Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv:2404.00498).
  enum class Flip { none, random, alternating };
  Flip flip = Flip::none;

  int64_t translate = 0;  ///< moved by up to so many pixels both ways, edges reflected; 0 to 16

  uint64_t seed = 0;
};

/// How an image of an epoch is shown: a function of seed, epoch and index alone, so the same on any rank, in any order
/// and after any resume.
struct Placement {
  bool mirrored = false;
  int64_t down = 0;   ///< which way the window moves over the image, -translate to translate
  int64_t right = 0;  ///< before it is mirrored
};
Placement placement(const Augmentation& augmentation, int64_t epoch, int64_t index);

/// The 32 rows or columns of the image that a window moved by `offset` shows, with reflected edges (the edge pixel
/// itself is not repeated, as in torch's ReflectionPad2d).
std::array<uint8_t, 32> shown(int64_t offset, bool mirrored);

/// A pass from bytes to batches. Local; const members may be called from several threads.
///
///     const BatchPass pass({.normalize = true, .flip = Augmentation::Flip::alternating, .seed = 1});
///     at::Tensor images, labels;
///     pass.load(train, indices, epoch, images, labels);
class BatchPass {
 public:
  explicit BatchPass(const Augmentation& augmentation, at::MemoryFormat format = at::MemoryFormat::Contiguous);

  /// images: float32 [n, 3, 32, 32] in the format of the constructor; labels: int64 [n]. Tensors of that shape, type
  /// and layout are filled in place, anything else is replaced. Throws Error (internal) for an index outside the set.
  void load(const Cifar10& set, std::span<const int64_t> indices, int64_t epoch, at::Tensor& images,
            at::Tensor& labels) const;

  const Augmentation& augmentation() const { return augmentation_; }

 private:
  Augmentation augmentation_;
  at::MemoryFormat format_;
  std::array<std::array<float, 256>, 3> values_;  // of each channel's bytes
};

}  // namespace lockstep
