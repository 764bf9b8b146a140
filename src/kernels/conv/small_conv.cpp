#include "kernels/conv/small_conv.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <variant>

#include "kernels/processor.h"

namespace lockstep::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kMostPixels = 64;

// All images as one list of pixels, row by row, with `border` zeros after each row and as many empty rows after each
// image: a window's pixels then lie at the same distances from its middle everywhere, for what is beyond an edge is in
// the zeros of the neighbour. Before the first image there is a border too, and after the last.
struct Framed {
  Framed(const at::Tensor& images, int64_t border)
      : width(images.size(3) + border),
        count(images.size(0) * (images.size(2) + border) * width),
        lead(border * width + border),
        pixels(at::zeros({lead + count + lead, images.size(1)}, images.options())) {
    const auto rows = pixels.narrow(0, lead, count)
                          .view({images.size(0), images.size(2) + border, width, images.size(1)})
                          .narrow(1, 0, images.size(2))
                          .narrow(2, 0, images.size(3));
    rows.copy_(images.permute({0, 2, 3, 1}));
  }
  int64_t width, count, lead;
  at::Tensor pixels;
};

bool computes_in_bfloat16(const at::Tensor& images, const at::Tensor& weight) {
  if (at::autocast::is_autocast_enabled(at::kCPU)) return at::autocast::get_autocast_dtype(at::kCPU) == at::kBFloat16;
  return images.scalar_type() == at::kBFloat16 && weight.scalar_type() == at::kBFloat16;
}

struct SmallConv : torch::autograd::Function<SmallConv> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& images, const at::Tensor& weight) {
    context->save_for_backward({images, weight});
    context->saved_data["of_images"] = images.requires_grad();
    const int64_t border = (weight.size(2) - 1) / 2;
    return at::conv2d(images, weight, {}, 1, border);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    TORCH_CHECK(!c10::GradMode::is_enabled(), "lockstep::fast_conv2d has no second derivative");
    const variable_list kept = context->get_saved_variables();
    const at::Tensor gradient = gradients[0].contiguous(at::MemoryFormat::ChannelsLast);
    const int64_t border = (kept[1].size(2) - 1) / 2;
    at::Tensor of_images;
    if (context->saved_data["of_images"].toBool()) {
      of_images =
          std::get<0>(at::convolution_backward(gradient, kept[0], kept[1], at::OptionalIntArrayRef(), {1, 1},
                                               {border, border}, {1, 1}, false, {0, 0}, 1, {true, false, false}));
    }
    return {of_images, weight_gradient_by_products(kept[0], gradient, kept[1].size(2))};
  }
};

}  // namespace

at::Tensor weight_gradient_by_products(const at::Tensor& images, const at::Tensor& gradient, int64_t kernel) {
  const int64_t border = (kernel - 1) / 2;
  const Framed input(images, border);
  const Framed output(gradient, border);
  // [out, pixels], zero where a pixel is a border: what a window reads there counts for nothing.
  const at::Tensor by_channel = output.pixels.narrow(0, output.lead, output.count).t().contiguous();
  at::Tensor result = at::empty({kernel, kernel, gradient.size(1), images.size(1)}, images.options());
  for (int64_t row = 0; row < kernel; ++row) {
    for (int64_t column = 0; column < kernel; ++column) {
      const int64_t first = row * input.width + column;  // of the pixels that this place sees
      at::Tensor place = result[row][column];
      at::mm_out(place, by_channel, input.pixels.narrow(0, first, input.count));
    }
  }
  return result.permute({2, 3, 0, 1});
}

bool small_conv_takes(const at::Tensor& images, const torch::nn::Conv2dImpl& conv) {
  const auto& options = conv.options;
  const auto* padding = std::get_if<torch::ExpandingArray<2>>(&options.padding());
  const auto both = [](const torch::ExpandingArray<2>& pair, int64_t value) {
    return (*pair)[0] == value && (*pair)[1] == value;
  };
  const int64_t kernel = (*options.kernel_size())[0];
  return has_bfloat16_tiles() && c10::GradMode::is_enabled() && images.device().is_cpu() && images.dim() == 4 &&
         images.numel() > 0 && images.size(2) * images.size(3) <= kMostPixels &&
         images.is_contiguous(at::MemoryFormat::ChannelsLast) && conv.weight.device().is_cpu() &&
         conv.weight.requires_grad() && !conv.bias.defined() && computes_in_bfloat16(images, conv.weight) &&
         kernel % 2 == 1 && both(options.kernel_size(), kernel) && both(options.stride(), 1) &&
         both(options.dilation(), 1) && options.groups() == 1 && padding != nullptr &&
         both(*padding, (kernel - 1) / 2) && std::holds_alternative<torch::enumtype::kZeros>(options.padding_mode());
}

at::Tensor small_conv2d(const at::Tensor& images, torch::nn::Conv2dImpl& conv) {
  // Cast here, where autograd sees it, and not by autocast inside, where it would not.
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::DispatchKey::AutocastCPU);
  return SmallConv::apply(images.to(at::kBFloat16), conv.weight.to(at::kBFloat16));
}

}  // namespace lockstep::kernels
