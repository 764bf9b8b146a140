#include "train/batches.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/index.h>

#include <cstring>

namespace lockstep {

Batches::Batches(const Cifar10& set, c10::Device device, Where where, at::MemoryFormat format)
    : set_(set), device_(device), where_(where), format_(format) {
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
}

void Batches::load(std::span<const int64_t> indices, at::Tensor& images, at::Tensor& labels) const {
  if (where_ == Where::host) {
    set_.batch(indices, images, labels);
    if (format_ != at::MemoryFormat::Contiguous) images = images.contiguous(format_);
    return;
  }
  // Pinned, so that the copy waits for nothing. LibTorch's allocator gives the memory to nobody else until it is over.
  const auto count = static_cast<int64_t>(indices.size());
  const at::Tensor host = at::empty({count}, at::TensorOptions(at::kLong).pinned_memory(device_.is_cuda()));
  std::memcpy(host.data_ptr<int64_t>(), indices.data(), indices.size_bytes());
  const at::Tensor chosen = host.to(device_, /*non_blocking=*/true);
  images = at::index(bytes_, {chosen}).to(at::kFloat).div_(top_);
  if (format_ != at::MemoryFormat::Contiguous) images = images.contiguous(format_);
  labels = at::index(labels_, {chosen});
}

}  // namespace lockstep
