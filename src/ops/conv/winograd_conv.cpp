#include "ops/conv/winograd_conv.h"

#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <variant>

#include "ops/conv/stepping.h"
#include "ops/conv/winograd_kernels.h"
#include "ops/parallel.h"

namespace lockstep {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Of the weights. Few stay in the second cache; making many takes as long as some tiles' products.
constexpr int64_t kFewFactors = 1 << 18;
constexpr int64_t kMostFactors = 1 << 22;
constexpr int64_t kTilesOfMany = 32;
constexpr int64_t kBlock = 48;  // tiles

const std::optional<WinogradKernels>& kernels_of(int64_t kernel) {
  static const auto three = winograd_kernels(best_processor(), 3);
  static const auto five = winograd_kernels(best_processor(), 5);
  static const std::optional<WinogradKernels> none;
  return kernel == 3 ? three : kernel == 5 ? five : none;
}

WinogradShape shape_of(const at::Tensor& images, int64_t kernel, int64_t out, int64_t padding) {
  WinogradShape shape{.images = images.size(0),
                      .height = images.size(2),
                      .width = images.size(3),
                      .out_height = images.size(2) + 2 * padding - kernel + 1,
                      .out_width = images.size(3) + 2 * padding - kernel + 1,
                      .padding = padding,
                      .in = images.size(1),
                      .out = out,
                      .tile = 7 - kernel,
                      .block = 0};
  const int64_t all = (shape.tiles() + kWinogradTiles - 1) / kWinogradTiles * kWinogradTiles;
  shape.block = std::min(kBlock, all);
  return shape;
}

// [out, in, kernel, kernel] → [36, out / 32, in, 32].
at::Tensor factors_of(const at::Tensor& weight, const WinogradKernels& kernels) {
  const at::Tensor by_place = weight.unflatten(0, {-1, kWinogradChannels}).permute({3, 4, 0, 2, 1}).contiguous();
  at::Tensor factors = at::empty({kWinogradProducts, weight.size(0) * weight.size(1)}, by_place.options());
  kernels.factors(weight.size(1), weight.size(0), by_place.const_data_ptr<float>(), factors.mutable_data_ptr<float>());
  return factors;
}

at::Tensor convolve(const at::Tensor& images, const at::Tensor& weight, const at::Tensor& bias, int64_t padding) {
  const auto& kernels = *kernels_of(weight.size(2));
  const WinogradShape shape = shape_of(images, weight.size(2), weight.size(0), padding);
  const at::Tensor factors = factors_of(weight, kernels);
  at::Tensor out = at::empty({shape.images, shape.out, shape.out_height, shape.out_width},
                             images.options().memory_format(at::MemoryFormat::ChannelsLast));
  const float* from = images.const_data_ptr<float>();
  const float* plus = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
  float* to = out.mutable_data_ptr<float>();
  parallel_for(0, shape.blocks(), 1, [&](int64_t begin, int64_t end) {
    const at::Tensor scratch = at::zeros({shape.scratch()});
    for (int64_t block = begin; block < end; ++block) {
      kernels.forward(shape, block, from, factors.const_data_ptr<float>(), plus, to, scratch.mutable_data_ptr<float>());
    }
  });
  return out;
}

struct Gradients {
  at::Tensor weight, bias;
};

Gradients gradients_of(const at::Tensor& images, const at::Tensor& weight, const at::Tensor& gradient,
                       int64_t padding) {
  const int64_t kernel = weight.size(2);
  const auto& kernels = *kernels_of(kernel);
  const WinogradShape shape = shape_of(images, kernel, weight.size(0), padding);
  // A sum for each thread, with as many blocks each.
  const int64_t parts = std::min<int64_t>(at::get_num_threads(), shape.blocks());
  const int64_t factors = kWinogradProducts * shape.in * shape.out;
  const at::Tensor sums = at::zeros({parts, factors + shape.out});
  const float* of_out = gradient.const_data_ptr<float>();
  const int64_t pixels = gradient.numel() / shape.out;
  parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    const at::Tensor scratch = at::zeros({shape.scratch()});
    for (int64_t part = begin; part < end; ++part) {
      float* sum = sums.mutable_data_ptr<float>() + part * (factors + shape.out);
      for (int64_t block = part * shape.blocks() / parts; block < (part + 1) * shape.blocks() / parts; ++block) {
        kernels.backward(shape, block, images.const_data_ptr<float>(), of_out, sum, scratch.mutable_data_ptr<float>());
      }
      const int64_t first = part * pixels / parts, last = (part + 1) * pixels / parts;
      kernels.sum_pixels(last - first, shape.out, of_out + first * shape.out, sum + factors);
    }
  });
  const at::Tensor sum = parts == 1 ? sums[0] : sums.sum(0);
  const at::Tensor by_place = at::empty({kernel, kernel, shape.out / kWinogradChannels, shape.in, kWinogradChannels});
  kernels.of_weights(shape.in, shape.out, sum.const_data_ptr<float>(), by_place.mutable_data_ptr<float>());
  return {by_place.permute({2, 4, 3, 0, 1}).flatten(0, 1).contiguous(weight.suggest_memory_format()),
          sum.narrow(0, factors, shape.out).clone()};
}

struct WinogradConv : torch::autograd::Function<WinogradConv> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& images, const at::Tensor& weight,
                            const at::Tensor& bias, int64_t padding) {
    context->save_for_backward({images, weight});
    context->saved_data["of_images"] = images.requires_grad();
    context->saved_data["of_weight"] = weight.requires_grad() || bias.requires_grad();
    context->saved_data["padding"] = padding;
    return convolve(images, weight, bias, padding);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    TORCH_CHECK(!c10::GradMode::is_enabled(), "lockstep::fast_conv2d has no second derivative");
    const variable_list kept = context->get_saved_variables();
    const at::Tensor& weight = kept[1];
    const int64_t padding = context->saved_data["padding"].toInt();
    const at::Tensor gradient = gradients[0].contiguous(at::MemoryFormat::ChannelsLast);
    at::Tensor of_images;
    if (context->saved_data["of_images"].toBool()) {  // a convolution with the kernels turned around
      of_images = convolve(gradient, weight.flip({2, 3}).transpose(0, 1), at::Tensor(), weight.size(2) - 1 - padding);
    }
    Gradients of;
    if (context->saved_data["of_weight"].toBool()) of = gradients_of(kept[0], weight, gradient, padding);
    return {of_images, of.weight, of.bias, at::Tensor()};
  }
};

bool is_worth_its_factors(const WinogradShape& shape) {
  const int64_t factors = kWinogradProducts * shape.in * shape.out;
  return factors <= kFewFactors || (factors <= kMostFactors && shape.tiles() >= kTilesOfMany);
}

int64_t even_padding_of(const torch::nn::Conv2dImpl& conv) {
  const auto* numbers = std::get_if<torch::ExpandingArray<2>>(&conv.options.padding());
  return numbers != nullptr && (**numbers)[0] == (**numbers)[1] ? (**numbers)[0] : -1;
}

}  // namespace

bool winograd_takes(const at::Tensor& images, const torch::nn::Conv2dImpl& conv) {
  const auto& options = conv.options;
  const auto both = [](const torch::ExpandingArray<2>& pair, int64_t value) {
    return (*pair)[0] == value && (*pair)[1] == value;
  };
  const auto plain = [](const at::Tensor& tensor) {
    return tensor.device().is_cpu() && tensor.scalar_type() == at::kFloat && tensor.layout() == at::kStrided;
  };
  const int64_t kernel = (*options.kernel_size())[0];
  const int64_t in = options.in_channels(), out = options.out_channels(), padding = even_padding_of(conv);
  return kernels_of(kernel) && both(options.kernel_size(), kernel) && both(options.stride(), 1) &&
         both(options.dilation(), 1) && options.groups() == 1 && padding >= 0 && padding < kernel &&
         std::holds_alternative<torch::enumtype::kZeros>(options.padding_mode()) && in % kWinogradChannels == 0 &&
         out % kWinogradChannels == 0 && plain(images) && images.dim() == 4 && images.size(1) == in &&
         images.numel() > 0 && images.is_contiguous(at::MemoryFormat::ChannelsLast) &&
         images.size(2) + 2 * padding >= kernel && images.size(3) + 2 * padding >= kernel &&
         is_worth_its_factors(shape_of(images, kernel, out, padding)) && plain(conv.weight) &&
         !(conv.bias.defined() && !(plain(conv.bias) && conv.bias.is_contiguous())) &&
         !at::autocast::is_autocast_enabled(at::kCPU);
}

at::Tensor winograd_conv2d(const at::Tensor& images, const torch::nn::Conv2dImpl& conv, bool of_weights) {
  const at::Tensor bias = bias_of(conv);
  const int64_t padding = even_padding_of(conv);
  if (!of_weights) return WinogradConv::apply(images, conv.weight.detach(), bias.detach(), padding);
  return WinogradConv::apply(images, conv.weight, bias, padding);
}

}  // namespace lockstep
