#include "train/batches.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/index.h>
#include <ATen/ops/tensor.h>

#include <cstring>

namespace lockstep {

Augmentation training_augmentation(const Settings& settings) {
  Augmentation augmentation = test_augmentation(settings);
  augmentation.flip = settings.data_flip == "random"        ? Augmentation::Flip::random
                      : settings.data_flip == "alternating" ? Augmentation::Flip::alternating
                                                            : Augmentation::Flip::none;
  augmentation.translate = settings.data_translate;
  augmentation.seed = static_cast<uint64_t>(settings.train_seed);
  return augmentation;
}

Augmentation test_augmentation(const Settings& settings) { return {.normalize = settings.data_normalize}; }

at::MemoryFormat memory_format(const Settings& settings) {
  return settings.train_memory_format == "channels_last" ? at::MemoryFormat::ChannelsLast
                                                         : at::MemoryFormat::Contiguous;
}

Batches::Batches(const Cifar10& set, c10::Device device, Where where, at::MemoryFormat format,
                 const Augmentation& augmentation)
    : set_(set), device_(device), where_(where), format_(format), pass_(augmentation, format) {
  if (where_ == Where::host) return;
  const int64_t count = set.size();
  const at::Tensor bytes = at::empty({count, 3, 32, 32}, at::kByte);
  const at::Tensor labels = at::empty({count}, at::kLong);
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(bytes.data_ptr<uint8_t>() + i * Cifar10::kPixels, set.pixels(i), Cifar10::kPixels);
    labels.data_ptr<int64_t>()[i] = set.label(i);
  }
  bytes_ = bytes.to(device_);
  labels_ = labels.to(device_);
  // A tensor there and not a number here: CUDA's kernels multiply by the reciprocal of a number, with other bits.
  top_ = at::full({}, 255, at::TensorOptions(at::kFloat).device(device_));
  mean_ = at::tensor(at::ArrayRef<float>(Augmentation::kMean)).view({1, 3, 1, 1}).to(device_);
  std_ = at::tensor(at::ArrayRef<float>(Augmentation::kStd)).view({1, 3, 1, 1}).to(device_);
  channels_ = at::arange(3, at::TensorOptions(at::kLong).device(device_)).view({1, 3, 1, 1});
}

// For indices. Pinned, so that the copy to a GPU waits for nothing; LibTorch's allocator gives the memory to nobody
// else until it is over.
at::Tensor Batches::host_memory(at::IntArrayRef sizes) const {
  return at::empty(sizes, at::TensorOptions(at::kLong).pinned_memory(device_.is_cuda()));
}

bool Batches::moves() const {
  return pass_.augmentation().flip != Augmentation::Flip::none || pass_.augmentation().translate != 0;
}

void Batches::load(std::span<const int64_t> indices, int64_t epoch, at::Tensor& images, at::Tensor& labels) const {
  if (where_ == Where::host) {
    pass_.load(set_, indices, epoch, images, labels);
    return;
  }
  Chosen chosen;
  choose(indices, epoch, chosen);
  make(chosen, images, labels);
}

void Batches::choose(std::span<const int64_t> indices, int64_t epoch, Chosen& chosen) const {
  const auto send = [&](const at::Tensor& from, at::Tensor& to) {
    if (to.defined() && to.sizes() == from.sizes()) {
      to.copy_(from, /*non_blocking=*/true);
    } else {
      to = from.to(device_, /*non_blocking=*/true);
    }
  };
  const auto count = static_cast<int64_t>(indices.size());
  const at::Tensor which = host_memory({count});
  std::memcpy(which.data_ptr<int64_t>(), indices.data(), indices.size_bytes());
  send(which, chosen.images);
  if (!moves()) return;
  // Which row and column of its image each row and column of the batch shows.
  const at::Tensor from = host_memory({2, count, 32});
  int64_t* row = from.data_ptr<int64_t>();
  int64_t* column = row + count * 32;
  for (const int64_t index : indices) {
    const Placement place = placement(pass_.augmentation(), epoch, index);
    for (const uint8_t shown_row : shown(place.down, false)) *row++ = shown_row;
    for (const uint8_t shown_column : shown(place.right, place.mirrored)) *column++ = shown_column;
  }
  send(from, chosen.places);
}

void Batches::make(const Chosen& chosen, at::Tensor& images, at::Tensor& labels) const {
  const int64_t count = chosen.images.size(0);
  if (moves()) {
    images = at::index(bytes_, {chosen.images.view({count, 1, 1, 1}), channels_,
                                chosen.places[0].view({count, 1, 32, 1}), chosen.places[1].view({count, 1, 1, 32})});
  } else {
    images = at::index(bytes_, {chosen.images});
  }
  images = images.to(at::kFloat).div_(top_);
  if (pass_.augmentation().normalize) images = images.sub_(mean_).div_(std_);
  if (format_ != at::MemoryFormat::Contiguous) images = images.contiguous(format_);
  labels = at::index(labels_, {chosen.images});
}

}  // namespace lockstep
