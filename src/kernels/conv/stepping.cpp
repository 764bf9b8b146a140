#include "kernels/conv/stepping.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/zeros.h>

#include <variant>

namespace lockstep::kernels {
namespace {

bool dense(const at::Tensor& tensor) { return tensor.device().is_cpu() && tensor.layout() == at::kStrided; }
bool plain(const at::Tensor& tensor) { return dense(tensor) && tensor.scalar_type() == at::kFloat; }
bool ones(const torch::ExpandingArray<2>& pair) { return (*pair)[0] == 1 && (*pair)[1] == 1; }

}  // namespace

std::optional<Padding> padding_of(const torch::nn::Conv2dImpl& conv) {
  const auto* numbers = std::get_if<torch::ExpandingArray<2>>(&conv.options.padding());
  if (numbers == nullptr) return std::nullopt;
  return Padding{(**numbers)[0], (**numbers)[1]};
}

std::optional<at::ScalarType> stepping_type(const at::Tensor& images, const torch::nn::Conv2dImpl& conv) {
  const auto& options = conv.options;
  const at::ScalarType type =
      at::autocast::is_autocast_enabled(at::kCPU) ? at::autocast::get_autocast_dtype(at::kCPU) : at::kFloat;
  const bool rounds = type == at::kBFloat16;
  if (!rounds && type != at::kFloat) return std::nullopt;
  if (!plain(images) && !(rounds && dense(images) && images.scalar_type() == at::kBFloat16)) return std::nullopt;
  const auto padding = padding_of(conv);
  const bool takes = images.dim() == 4 && images.numel() > 0 && images.is_contiguous(at::MemoryFormat::ChannelsLast) &&
                     plain(conv.weight) && !(conv.bias.defined() && !(plain(conv.bias) && conv.bias.is_contiguous())) &&
                     padding && padding->rows >= 0 && padding->columns >= 0 && ones(options.stride()) &&
                     ones(options.dilation()) && options.groups() == 1 &&
                     std::holds_alternative<torch::enumtype::kZeros>(options.padding_mode()) &&
                     options.out_channels() % kOutMultiple == 0 && options.in_channels() == images.size(1) &&
                     images.size(2) + 2 * padding->rows >= conv.weight.size(2) &&
                     images.size(3) + 2 * padding->columns >= conv.weight.size(3);
  return takes ? std::optional(type) : std::nullopt;
}

at::Tensor bias_of(const torch::nn::Conv2dImpl& conv) {
  return conv.bias.defined() ? conv.bias : at::zeros({conv.options.out_channels()});
}

ConvGradients sum_of(const at::Tensor& parts, const at::Tensor& weight) {
  const int64_t size = parts.size(1);
  float* total = parts.mutable_data_ptr<float>();
  for (int64_t i = 1; i < parts.size(0); ++i) {
    const float* part = total + i * size;
    for (int64_t k = 0; k < size; ++k) total[k] += part[k];
  }
  return {parts[0]
              .narrow(0, 0, weight.numel())
              .view({weight.size(2), weight.size(3), weight.size(1), weight.size(0)})
              .permute({3, 2, 0, 1})
              .contiguous(weight.suggest_memory_format()),
          parts[0].narrow(0, weight.numel(), weight.size(0)).clone()};
}

}  // namespace lockstep::kernels
