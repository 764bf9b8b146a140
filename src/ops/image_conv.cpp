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

struct ImageConv : torch::autograd::Function<ImageConv> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& images, const at::Tensor& weight,
                            const at::Tensor& bias, int64_t rows, int64_t columns) {
    const Padding padding{rows, columns};
    const ConvShape shape = shape_of(images, weight, padding);
    at::Tensor out = at::empty({images.size(0), shape.out_channels, shape.height, shape.width},
                               images.options().memory_format(at::MemoryFormat::ChannelsLast));
    const at::Tensor weights = weight.permute({2, 3, 1, 0}).contiguous();
    float* to = out.mutable_data_ptr<float>();
    parallel_for(0, images.size(0), 1, [&](int64_t begin, int64_t end) {
      Frame frame(images, padding, shape);
      for (int64_t i = begin; i < end; ++i) {
        kernels()->forward(shape, frame.show(i), weights.const_data_ptr<float>(), bias.const_data_ptr<float>(),
                           to + i * shape.height * shape.width * shape.out_channels);
      }
    });
    context->save_for_backward({images, weight});
    context->saved_data["rows"] = rows;
    context->saved_data["columns"] = columns;
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    TORCH_CHECK(!c10::GradMode::is_enabled(), "lockstep::fast_conv2d has no second derivative");
    const variable_list kept = context->get_saved_variables();
    const at::Tensor& images = kept[0];
    const at::Tensor& weight = kept[1];
    const Padding padding{context->saved_data["rows"].toInt(), context->saved_data["columns"].toInt()};
    const ConvShape shape = shape_of(images, weight, padding);
    const at::Tensor gradient = gradients[0].contiguous(at::MemoryFormat::ChannelsLast);
    const int64_t count = images.size(0);
    const int64_t groups = (count + kGroup - 1) / kGroup;
    // Of each group: the weights' and then the bias's.
    const int64_t of_weights = weight.numel();
    const at::Tensor parts = at::zeros({groups, of_weights + shape.out_channels});
    const float* from = gradient.const_data_ptr<float>();
    parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
      Frame frame(images, padding, shape);
      for (int64_t group = begin; group < end; ++group) {
        float* part = parts.mutable_data_ptr<float>() + group * (of_weights + shape.out_channels);
        for (int64_t i = group * kGroup; i < std::min(count, (group + 1) * kGroup); ++i) {
          kernels()->backward(shape, frame.show(i), from + i * shape.height * shape.width * shape.out_channels, part,
                              part + of_weights);
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
    return {at::Tensor(), weights, bias, at::Tensor(), at::Tensor()};
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

at::Tensor image_conv2d(const at::Tensor& images, torch::nn::Conv2dImpl& conv) {
  const Padding padding = *padding_of(conv);
  const at::Tensor bias = conv.bias.defined() ? conv.bias : at::zeros({conv.options.out_channels()});
  return ImageConv::apply(images, conv.weight, bias, padding.rows, padding.columns);
}

}  // namespace lockstep
