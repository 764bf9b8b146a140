#include "ops/image_conv.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cstring>
#include <variant>
#include <vector>

#include "ops/image_conv_kernels.h"
#include "ops/max_pool_kernels.h"
#include "ops/parallel.h"

namespace lockstep {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Images whose part of the weights' gradient is summed before all are: not by the thread, so that bits do not depend
// on threads.
constexpr int64_t kGroup = 8;

const std::optional<ImageConvKernels>& kernels() {
  static const std::optional<ImageConvKernels> best = image_conv_kernels(best_processor());
  return best;
}

const PoolKernels<uint32_t>& pool() {
  static const PoolKernels<uint32_t> best = pool_kernels<uint32_t>(best_processor());
  return best;
}

const uint32_t* bits(const float* values) { return static_cast<const uint32_t*>(static_cast<const void*>(values)); }
uint32_t* bits(float* values) { return static_cast<uint32_t*>(static_cast<void*>(values)); }

struct Padding {
  int64_t rows, columns;
};

std::optional<Padding> padding_of(const torch::nn::Conv2dImpl& conv) {
  const auto* numbers = std::get_if<torch::ExpandingArray<2>>(&conv.options.padding());
  if (numbers == nullptr) return std::nullopt;
  return Padding{(**numbers)[0], (**numbers)[1]};
}

ConvShape shape_of(const at::Tensor& images, const at::Tensor& weight, const Padding& padding) {
  return {.height = images.size(2) + 2 * padding.rows - weight.size(2) + 1,
          .width = images.size(3) + 2 * padding.columns - weight.size(3) + 1,
          .kernel_height = weight.size(2),
          .row_taps = weight.size(3) * images.size(1),
          .channels = images.size(1),
          .padded_row = (images.size(3) + 2 * padding.columns) * images.size(1),
          .out_channels = weight.size(0)};
}

// One image at a time with zeros around it.
class Frame {
 public:
  Frame(const at::Tensor& images, const Padding& padding, const ConvShape& shape)
      : from_(images.const_data_ptr<float>()),
        rows_(images.size(2)),
        row_(images.size(3) * images.size(1)),
        padded_row_(shape.padded_row),
        first_(padding.rows * shape.padded_row + padding.columns * shape.channels),
        padded_(static_cast<size_t>((rows_ + 2 * padding.rows) * shape.padded_row)) {}

  const float* show(int64_t image) {
    const float* from = from_ + image * rows_ * row_;
    for (int64_t y = 0; y < rows_; ++y) {
      std::memcpy(padded_.data() + first_ + y * padded_row_, from + y * row_, static_cast<size_t>(row_) * sizeof *from);
    }
    return padded_.data();
  }

 private:
  const float* from_;
  int64_t rows_, row_, padded_row_, first_;
  std::vector<float> padded_;
};

// Some rows of one image's output, which are pooled as soon as they are made, and a pooled gradient's before they are
// used: an even number that stays in the first cache.
class Strip {
 public:
  explicit Strip(const ConvShape& shape)
      : shape_(shape),
        rows_(std::max<int64_t>(2, kCachedFloats / (shape.width * shape.out_channels) / 2 * 2)),
        row_(shape.width * shape.out_channels),
        pooled_row_(shape.width / 2 * shape.out_channels),
        values_(static_cast<size_t>(rows_ * row_)) {}

  /// Calls work(the strip's shape, its first row, its values, the pooled row that it begins with) for all strips. An
  /// odd last row belongs to none.
  template <typename Work>
  void each(const Work& work) {
    for (int64_t y = 0; y + 1 < shape_.height; y += rows_) {
      ConvShape strip = shape_;
      strip.height = std::min(rows_, (shape_.height - y) / 2 * 2);
      work(strip, y, values_.data(), y / 2 * pooled_row_);
    }
  }

  void pool_to(const ConvShape& strip, float* out, uint8_t* winners) {
    for (int64_t y = 0; y < strip.height; y += 2, out += pooled_row_, winners += pooled_row_) {
      const float* upper = values_.data() + y * row_;
      pool().forward(bits(upper), bits(upper + row_), bits(out), winners, strip.width / 2, strip.out_channels);
    }
  }

  // An odd last column keeps the zeros that it began with.
  void unpool(const ConvShape& strip, const float* gradient, const uint8_t* winners) {
    for (int64_t y = 0; y < strip.height; y += 2, gradient += pooled_row_, winners += pooled_row_) {
      float* upper = values_.data() + y * row_;
      pool().backward(bits(gradient), winners, bits(upper), bits(upper + row_), strip.width / 2, strip.out_channels);
    }
  }

 private:
  ConvShape shape_;
  int64_t rows_, row_, pooled_row_;
  std::vector<float> values_;
};

struct ImageConv : torch::autograd::Function<ImageConv> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& images, const at::Tensor& weight,
                            const at::Tensor& bias, int64_t rows, int64_t columns, bool pooled) {
    const Padding padding{rows, columns};
    const ConvShape shape = shape_of(images, weight, padding);
    const int64_t size = pooled ? 2 : 1;
    const std::vector<int64_t> sizes = {images.size(0), shape.out_channels, shape.height / size, shape.width / size};
    const auto options = images.options().memory_format(at::MemoryFormat::ChannelsLast);
    at::Tensor out = at::empty(sizes, options);
    const at::Tensor winners = pooled ? at::empty(sizes, options.dtype(at::kByte)) : at::Tensor();
    const at::Tensor weights = weight.permute({2, 3, 1, 0}).contiguous();
    const auto* factors = weights.const_data_ptr<float>();
    const auto* added = bias.const_data_ptr<float>();
    const int64_t out_image = sizes[1] * sizes[2] * sizes[3];
    auto* to = out.mutable_data_ptr<float>();
    auto* winner = pooled ? winners.mutable_data_ptr<uint8_t>() : nullptr;
    parallel_for(0, images.size(0), 1, [&](int64_t begin, int64_t end) {
      Frame frame(images, padding, shape);
      std::optional<Strip> strip;
      if (pooled) strip.emplace(shape);
      for (int64_t i = begin; i < end; ++i) {
        const float* padded = frame.show(i);
        if (!strip) {
          kernels()->forward(shape, padded, factors, added, to + i * out_image);
          continue;
        }
        strip->each([&](const ConvShape& part, int64_t y, float* values, int64_t at) {
          kernels()->forward(part, padded + y * shape.padded_row, factors, added, values);
          strip->pool_to(part, to + i * out_image + at, winner + i * out_image + at);
        });
      }
    });
    context->save_for_backward({images, weight, winners});
    context->saved_data["rows"] = rows;
    context->saved_data["columns"] = columns;
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    TORCH_CHECK(!c10::GradMode::is_enabled(), "lockstep::fast_conv2d has no second derivative");
    const variable_list kept = context->get_saved_variables();
    const at::Tensor& images = kept[0];
    const at::Tensor& weight = kept[1];
    const at::Tensor& winners = kept[2];  // none if not pooled
    const Padding padding{context->saved_data["rows"].toInt(), context->saved_data["columns"].toInt()};
    const ConvShape shape = shape_of(images, weight, padding);
    const at::Tensor gradient = gradients[0].contiguous(at::MemoryFormat::ChannelsLast);
    const int64_t count = images.size(0);
    const int64_t groups = (count + kGroup - 1) / kGroup;
    // Of each group: the weights' and then the bias's.
    const int64_t of_weights = weight.numel();
    const at::Tensor parts = at::zeros({groups, of_weights + shape.out_channels});
    const auto* from = gradient.const_data_ptr<float>();
    const auto* winner = winners.defined() ? winners.const_data_ptr<uint8_t>() : nullptr;
    const int64_t out_image = gradient.numel() / count;
    parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
      Frame frame(images, padding, shape);
      std::optional<Strip> strip;
      if (winner != nullptr) strip.emplace(shape);
      for (int64_t group = begin; group < end; ++group) {
        float* part = parts.mutable_data_ptr<float>() + group * (of_weights + shape.out_channels);
        for (int64_t i = group * kGroup; i < std::min(count, (group + 1) * kGroup); ++i) {
          const float* padded = frame.show(i);
          if (!strip) {
            kernels()->backward(shape, padded, from + i * out_image, part, part + of_weights);
            continue;
          }
          strip->each([&](const ConvShape& some, int64_t y, const float* values, int64_t at) {
            strip->unpool(some, from + i * out_image + at, winner + i * out_image + at);
            kernels()->backward(some, padded + y * shape.padded_row, values, part, part + of_weights);
          });
        }
      }
    });
    float* total = parts.mutable_data_ptr<float>();
    for (int64_t group = 1; group < groups; ++group) {
      const float* part = total + group * (of_weights + shape.out_channels);
      for (int64_t k = 0; k < of_weights + shape.out_channels; ++k) total[k] += part[k];
    }
    const at::Tensor sum = parts[0];
    const at::Tensor weights = sum.narrow(0, 0, of_weights)
                                   .view({weight.size(2), weight.size(3), weight.size(1), weight.size(0)})
                                   .permute({3, 2, 0, 1})
                                   .contiguous(weight.suggest_memory_format());
    const at::Tensor bias = sum.narrow(0, of_weights, shape.out_channels).clone();
    return {at::Tensor(), weights, bias, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

bool image_conv_takes(const at::Tensor& images, const torch::nn::Conv2dImpl& conv) {
  const auto& options = conv.options;
  const auto ones = [](const torch::ExpandingArray<2>& pair) { return (*pair)[0] == 1 && (*pair)[1] == 1; };
  const auto plain = [](const at::Tensor& tensor) {
    return tensor.device().is_cpu() && tensor.scalar_type() == at::kFloat && tensor.layout() == at::kStrided;
  };
  if (!kernels() || !plain(images) || images.dim() != 4 || images.size(1) > 4 || images.numel() == 0) return false;
  if (images.requires_grad() || !images.is_contiguous(at::MemoryFormat::ChannelsLast)) return false;
  if (at::autocast::is_autocast_enabled(at::kCPU) || !plain(conv.weight)) return false;
  if (conv.bias.defined() && !(plain(conv.bias) && conv.bias.is_contiguous())) return false;
  const auto padding = padding_of(conv);
  return padding && ones(options.stride()) && ones(options.dilation()) && options.groups() == 1 &&
         std::holds_alternative<torch::enumtype::kZeros>(options.padding_mode()) &&
         options.out_channels() % kOutBlock == 0 && options.in_channels() == images.size(1) &&
         images.size(2) + 2 * padding->rows >= conv.weight.size(2) &&
         images.size(3) + 2 * padding->columns >= conv.weight.size(3);
}

bool image_conv_pools(const at::Tensor& images, const torch::nn::Conv2dImpl& conv) {
  if (!image_conv_takes(images, conv)) return false;
  const ConvShape shape = shape_of(images, conv.weight, *padding_of(conv));
  return shape.height >= 2 && shape.width >= 2;
}

at::Tensor image_conv2d(const at::Tensor& images, torch::nn::Conv2dImpl& conv, bool pooled) {
  const Padding padding = *padding_of(conv);
  const at::Tensor bias = conv.bias.defined() ? conv.bias : at::zeros({conv.options.out_channels()});
  return ImageConv::apply(images, conv.weight, bias, padding.rows, padding.columns, pooled);
}

}  // namespace lockstep
