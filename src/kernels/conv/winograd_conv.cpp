#include "kernels/conv/winograd_conv.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "kernels/conv/stepping.h"
#include "kernels/conv/winograd_kernels.h"
#include "kernels/parallel.h"
#include "lockstep/fast_conv.h"

namespace lockstep::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Tiles worked on at a time: forward, and for the gradient of the weights, whose sums are in memory between them.
constexpr int64_t kBlock = 48;
constexpr int64_t kGradientBlock = 128;
// Channels in; they are filled up to a multiple of 32.
constexpr int64_t kLeastChannels = 16;
static_assert(kOutMultiple % kWinogradChannels == 0);
static_assert(kBlock % kWinogradTiles == 0 && kGradientBlock % kWinogradTiles == 0);

template <typename Value>
const std::optional<WinogradKernels<Value>>& kernels_of(int64_t kernel) {
  static const auto three = winograd_kernels<Value>(3);
  static const auto five = winograd_kernels<Value>(5);
  static const std::optional<WinogradKernels<Value>> none;
  return kernel == 3 ? three : kernel == 5 ? five : none;
}

WinogradShape shape_of(const at::Tensor& images, int64_t kernel, int64_t out, int64_t padding, int64_t block) {
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
  shape.block = std::min(block, all);
  return shape;
}

// [out, in, kernel, kernel] → [out, kernel, kernel, in], the same memory where weights are channels_last.
at::Tensor by_channel(const at::Tensor& weight) { return weight.permute({0, 2, 3, 1}).contiguous(); }

// Of the convolution, or of the one that makes the images' gradient.
template <typename Value>
at::Tensor factors_of(const at::Tensor& weight, bool turned) {
  using Sight = typename WinogradKernels<Value>::Sight;
  const auto& kernels = *kernels_of<Value>(weight.size(2));
  const at::Tensor values = by_channel(weight);
  const int64_t in = weight.size(1), out = weight.size(0), padded = winograd_padded(in);
  const at::Tensor factors =
      at::empty({kWinogradProducts * padded * out / WinogradKernels<Value>::kTogether}, values.options());
  auto* const to = static_cast<Sight*>(factors.mutable_data_ptr());
  parallel_for(0, (turned ? padded : out) / kWinogradChannels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      (turned ? kernels.turned_factors : kernels.factors)(in, out, block, values.const_data_ptr<float>(), to);
    }
  });
  return factors;
}

at::Tensor scratch_of(const WinogradShape& shape, int64_t floats) {
  at::Tensor scratch = at::empty({floats}, at::kFloat);
  scratch.narrow(0, 0, shape.zeroed()).zero_();
  return scratch;
}

template <typename Value>
at::Tensor convolve(const at::Tensor& images, const at::Tensor& weight, bool turned, const at::Tensor& bias,
                    int64_t padding) {
  const auto& kernels = *kernels_of<Value>(weight.size(2));
  const WinogradShape shape = shape_of(images, weight.size(2), weight.size(turned ? 1 : 0), padding, kBlock);
  const at::Tensor factors = factors_of<Value>(weight, turned);
  at::Tensor out = at::empty({shape.images, shape.out, shape.out_height, shape.out_width},
                             images.options().memory_format(at::MemoryFormat::ChannelsLast));
  const auto* from = values_of<Value>(images);
  const auto* products = static_cast<const typename WinogradKernels<Value>::Sight*>(factors.const_data_ptr());
  const float* plus = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
  auto* to = static_cast<Value*>(out.mutable_data_ptr());
  parallel_for(0, shape.blocks(), 1, [&](int64_t begin, int64_t end) {
    const at::Tensor scratch = scratch_of(shape, shape.forward_scratch());
    for (int64_t block = begin; block < end; ++block) {
      kernels.forward(shape, block, from, products, plus, to, scratch.mutable_data_ptr<float>());
    }
  });
  return out;
}

template <typename Value>
ConvGradients gradients_of(const at::Tensor& images, const at::Tensor& weight, const at::Tensor& gradient, bool of_bias,
                           int64_t padding) {
  const int64_t kernel = weight.size(2);
  const auto& kernels = *kernels_of<Value>(kernel);
  const WinogradShape shape = shape_of(images, kernel, weight.size(0), padding, kGradientBlock);
  // A sum for each thread, with as many blocks each.
  const int64_t parts = std::min<int64_t>(at::get_num_threads(), shape.blocks());
  const int64_t factors = kWinogradProducts * winograd_padded(shape.in) * shape.out;
  const at::Tensor sums = at::empty({parts, factors + shape.out});
  sums.narrow(1, factors, shape.out).zero_();
  const auto* of_out = values_of<Value>(gradient);
  const int64_t pixels = gradient.numel() / shape.out;
  parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    const at::Tensor scratch = scratch_of(shape, shape.backward_scratch());
    for (int64_t part = begin; part < end; ++part) {
      float* sum = sums.mutable_data_ptr<float>() + part * (factors + shape.out);
      const int64_t begin_block = part * shape.blocks() / parts, end_block = (part + 1) * shape.blocks() / parts;
      for (int64_t block = begin_block; block < end_block; ++block) {
        kernels.backward(shape, block, block > begin_block, values_of<Value>(images), of_out, sum,
                         scratch.mutable_data_ptr<float>());
      }
      if (!of_bias) continue;
      const int64_t first = part * pixels / parts, last = (part + 1) * pixels / parts;
      kernels.sum_pixels(last - first, shape.out, of_out + first * shape.out, sum + factors);
    }
  });
  const at::Tensor sum = parts == 1 ? sums[0] : sums.sum(0);
  const at::Tensor of_weight = at::empty({shape.out, kernel, kernel, shape.in});
  parallel_for(0, shape.out, 1, [&](int64_t begin, int64_t end) {
    for (int64_t channel = begin; channel < end; ++channel) {
      kernels.of_weights(shape.in, shape.out, channel, sum.const_data_ptr<float>(),
                         of_weight.mutable_data_ptr<float>());
    }
  });
  return {of_weight.permute({0, 3, 1, 2}).contiguous(weight.suggest_memory_format()),
          of_bias ? sum.narrow(0, factors, shape.out).clone() : at::Tensor()};
}

template <typename Value>
variable_list gradients(AutogradContext* context, const variable_list& kept, const at::Tensor& gradient) {
  const at::Tensor& weight = kept[1];
  const int64_t padding = context->saved_data["padding"].toInt();
  const bool of_bias = context->saved_data["of_bias"].toBool();
  at::Tensor image_gradient;
  if (context->saved_data["of_images"].toBool()) {
    image_gradient = convolve<Value>(gradient, weight, /*turned=*/true, at::Tensor(), weight.size(2) - 1 - padding);
  }
  ConvGradients of;
  if (of_bias || context->saved_data["of_weight"].toBool()) {
    of = gradients_of<Value>(kept[0], weight, gradient, of_bias, padding);
  }
  return {image_gradient, of.weight, of.bias, at::Tensor()};
}

struct WinogradConv : torch::autograd::Function<WinogradConv> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& images, const at::Tensor& weight,
                            const at::Tensor& bias, int64_t padding) {
    context->save_for_backward({images, weight});
    context->saved_data["of_images"] = images.requires_grad();
    context->saved_data["of_weight"] = weight.requires_grad();
    context->saved_data["of_bias"] = bias.requires_grad();
    context->saved_data["padding"] = padding;
    return images.scalar_type() == at::kFloat ? convolve<float>(images, weight, /*turned=*/false, bias, padding)
                                              : convolve<uint16_t>(images, weight, /*turned=*/false, bias, padding);
  }

  static variable_list backward(AutogradContext* context, const variable_list& incoming) {
    TORCH_CHECK(!c10::GradMode::is_enabled(), "lockstep::fast_conv2d has no second derivative");
    const variable_list kept = context->get_saved_variables();
    const at::ScalarType type = kept[0].scalar_type();
    const at::Tensor gradient = incoming[0].to(type).contiguous(at::MemoryFormat::ChannelsLast);
    return type == at::kFloat ? gradients<float>(context, kept, gradient)
                              : gradients<uint16_t>(context, kept, gradient);
  }
};

bool is_worth_its_factors(const WinogradShape& shape) {
  const int64_t channels = winograd_padded(shape.in) * shape.out;
  return channels <= kWinogradFewChannels ||
         (channels <= kWinogradMostChannels && shape.tiles() >= kWinogradLeastTiles);
}

}  // namespace

bool winograd_takes(const at::Tensor& images, const torch::nn::Conv2dImpl& conv) {
  const auto type = stepping_type(images, conv);
  if (!type) return false;
  const int64_t kernel = conv.weight.size(2);
  const Padding padding = *padding_of(conv);
  const bool has_kernels =
      *type == at::kFloat ? kernels_of<float>(kernel).has_value() : kernels_of<uint16_t>(kernel).has_value();
  return has_kernels && conv.weight.size(3) == kernel && padding.rows == padding.columns && padding.rows < kernel &&
         conv.weight.size(1) >= kLeastChannels &&
         is_worth_its_factors(shape_of(images, kernel, conv.weight.size(0), padding.rows, kBlock));
}

at::Tensor winograd_conv2d(const at::Tensor& images, const torch::nn::Conv2dImpl& conv, bool of_weights) {
  const at::Tensor values = images.to(*stepping_type(images, conv));
  const at::Tensor bias = bias_of(conv);
  const int64_t padding = padding_of(conv)->rows;
  if (!of_weights) return WinogradConv::apply(values, conv.weight.detach(), bias.detach(), padding);
  return WinogradConv::apply(values, conv.weight, bias, padding);
}

}  // namespace lockstep::kernels
