#include "lockstep/augment.h"

#include <ATen/ops/empty.h>

namespace lockstep {
namespace {

constexpr int64_t kSide = 32;
constexpr int64_t kPlane = kSide * kSide;

// SplitMix64's output function (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
uint64_t mix(uint64_t bits) {
  bits += 0x9e3779b97f4a7c15U;
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9U;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebU;
  return bits ^ (bits >> 31);
}

uint64_t draw(uint64_t seed, uint64_t what, uint64_t epoch, uint64_t index) {
  return mix(mix(mix(mix(seed) ^ what) ^ epoch) ^ index);
}

constexpr uint64_t kFlip = 1;
constexpr uint64_t kShift = 2;

}  // namespace

Placement placement(const Augmentation& augmentation, int64_t epoch, int64_t index) {
  const auto at_epoch = static_cast<uint64_t>(epoch);
  const auto image = static_cast<uint64_t>(index);
  Placement place;
  if (augmentation.flip == Augmentation::Flip::random) {
    place.mirrored = (draw(augmentation.seed, kFlip, at_epoch, image) & 1U) != 0;
  } else if (augmentation.flip == Augmentation::Flip::alternating) {
    place.mirrored = ((draw(augmentation.seed, kFlip, 0, image) ^ at_epoch) & 1U) != 0;
  }
  if (augmentation.translate > 0) {
    const auto ways = static_cast<uint64_t>(2 * augmentation.translate + 1);
    const uint64_t bits = draw(augmentation.seed, kShift, at_epoch, image);
    // The halves of 64 bits over at most 33 ways: no way is likelier than another by more than 1e-8.
    place.down = static_cast<int64_t>((bits >> 32) % ways) - augmentation.translate;
    place.right = static_cast<int64_t>((bits & 0xffffffffU) % ways) - augmentation.translate;
  }
  return place;
}

std::array<uint8_t, 32> shown(int64_t offset, bool mirrored) {
  std::array<uint8_t, 32> all{};
  for (int64_t i = 0; i < kSide; ++i) {
    int64_t from = (mirrored ? kSide - 1 - i : i) + offset;
    if (from < 0) from = -from;
    if (from >= kSide) from = 2 * (kSide - 1) - from;
    all[static_cast<size_t>(i)] = static_cast<uint8_t>(from);
  }
  return all;
}

BatchPass::BatchPass(const Augmentation& augmentation, at::MemoryFormat format)
    : augmentation_(augmentation), format_(format), values_() {
  for (size_t channel = 0; channel < 3; ++channel) {
    for (size_t byte = 0; byte < 256; ++byte) {
      // Divisions in float32 as torchvision's ToTensor and Normalize: products with 1/255 differ in the last bit.
      float value = static_cast<float>(byte) / 255.0F;
      if (augmentation.normalize) value = (value - Augmentation::kMean[channel]) / Augmentation::kStd[channel];
      values_[channel][byte] = value;
    }
  }
}

void BatchPass::load(const Cifar10& set, std::span<const int64_t> indices, int64_t epoch, at::Tensor& images,
                     at::Tensor& labels) const {
  const auto count = static_cast<int64_t>(indices.size());
  const auto fits = [&](const at::Tensor& tensor, at::ScalarType type, at::IntArrayRef shape, at::MemoryFormat format) {
    return tensor.defined() && tensor.is_cpu() && tensor.scalar_type() == type && tensor.sizes() == shape &&
           tensor.is_contiguous(format) && !tensor.requires_grad();
  };
  if (!fits(images, at::kFloat, {count, 3, kSide, kSide}, format_)) {
    images = at::empty({count, 3, kSide, kSide}, at::TensorOptions(at::kFloat).memory_format(format_));
  }
  if (!fits(labels, at::kLong, {count}, at::MemoryFormat::Contiguous)) labels = at::empty({count}, at::kLong);
  const bool side_by_side = format_ == at::MemoryFormat::ChannelsLast;  // a pixel's channels
  float* out = images.mutable_data_ptr<float>();
  int64_t* label = labels.mutable_data_ptr<int64_t>();
  for (const int64_t index : indices) {
    *label++ = set.label(index);
    const uint8_t* bytes = set.pixels(index);
    const Placement place = placement(augmentation_, epoch, index);
    const auto rows = shown(place.down, false);
    const auto columns = shown(place.right, place.mirrored);
    for (const uint8_t row : rows) {
      const uint8_t* from = bytes + row * kSide;
      for (const uint8_t column : columns) {
        const uint8_t* pixel = from + column;
        const float red = values_[0][pixel[0]];
        const float green = values_[1][pixel[kPlane]];
        const float blue = values_[2][pixel[2 * kPlane]];
        if (side_by_side) {
          out[0] = red;
          out[1] = green;
          out[2] = blue;
          out += 3;
        } else {
          out[0] = red;
          out[kPlane] = green;
          out[2 * kPlane] = blue;
          ++out;
        }
      }
    }
    if (!side_by_side) out += 2 * kPlane;
  }
}

}  // namespace lockstep
