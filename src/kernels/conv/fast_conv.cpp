#include "lockstep/fast_conv.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/conv2d.h>
#include <ATen/record_function.h>

#include "kernels/conv/image_conv.h"
#include "kernels/conv/pooled_gradient.h"
#include "kernels/conv/small_conv.h"
#include "kernels/conv/stepping.h"
#include "kernels/conv/winograd_conv.h"
#include "kernels/max_pool.h"
#include "kernels/processor.h"
#include "lockstep/max_pool.h"

namespace lockstep::kernels {
namespace {

// Where autocast is for speed and bfloat16 would cost some. Images in other layouts keep LibTorch's bits.
bool is_faster_in_float32(const at::Tensor& images, const torch::nn::Conv2dImpl& conv) {
  return !has_fast_bfloat16() && at::autocast::is_autocast_enabled(at::kCPU) &&
         at::autocast::get_autocast_dtype(at::kCPU) == at::kBFloat16 && images.device().is_cpu() &&
         (images.scalar_type() == at::kFloat || images.scalar_type() == at::kBFloat16) &&
         conv.weight.scalar_type() == at::kFloat && images.dim() == 4 && !images.is_contiguous() &&
         images.is_contiguous(at::MemoryFormat::ChannelsLast);
}

// One layout whichever way computes: LibTorch takes images of one channel or one pixel for contiguous ones, whose
// strides say both.
at::Tensor in_layout_of(const at::Tensor& images, const at::Tensor& out) {
  const bool channels_last = images.dim() == 4 && images.is_contiguous(at::MemoryFormat::ChannelsLast);
  return channels_last ? out.contiguous(at::MemoryFormat::ChannelsLast) : out;
}

at::Tensor fastest(const at::Tensor& images, torch::nn::Conv2dImpl& conv) {
  if (image_conv_takes(images, conv)) return image_conv2d(images, conv);
  if (winograd_takes(images, conv)) return winograd_conv2d(images, conv);
  if (small_conv_takes(images, conv)) return small_conv2d(images, conv);
  return in_layout_of(images, conv.torch::nn::Conv2dImpl::forward(images));
}

// For convolutions that with_pooled_gradient takes.
at::Tensor of_images_only(const at::Tensor& images, const torch::nn::Conv2dImpl& conv) {
  if (winograd_takes(images, conv)) return winograd_conv2d(images, conv, /*of_weights=*/false);
  const at::Tensor bias = conv.bias.defined() ? conv.bias.detach() : conv.bias;
  const Padding padding = *padding_of(conv);
  return in_layout_of(images, at::conv2d(images, conv.weight.detach(), bias, 1, {padding.rows, padding.columns}));
}

at::Tensor fastest_pooled(const at::Tensor& images, torch::nn::Conv2dImpl& conv) {
  if (!pooled_gradient_takes(images, conv)) return max_pool2x2(fastest(images, conv));
  const Pooled pooled = image_conv_takes(images, conv) ? image_conv2d_max_pool2x2(images, conv)
                                                       : max_pool2x2_and_winners(of_images_only(images, conv));
  return with_pooled_gradient(pooled.out, pooled.winners, images, conv);
}

// `way`(images, conv), in float32 where that is faster.
template <typename Way>
at::Tensor in_fastest_precision(const at::Tensor& images, torch::nn::Conv2dImpl& conv, const Way& way) {
  if (!is_faster_in_float32(images, conv)) return way(images, conv);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::DispatchKey::AutocastCPU);
  return way(images.to(at::kFloat), conv).to(at::kBFloat16);
}

}  // namespace

}  // namespace lockstep::kernels

namespace lockstep {

at::Tensor fast_conv2d(const at::Tensor& images, torch::nn::Conv2dImpl& conv) {
  RECORD_FUNCTION("lockstep::fast_conv2d", c10::ArrayRef<c10::IValue>());
  return kernels::in_fastest_precision(images, conv, kernels::fastest);
}

at::Tensor fast_conv2d_max_pool2x2(const at::Tensor& images, torch::nn::Conv2dImpl& conv) {
  RECORD_FUNCTION("lockstep::fast_conv2d_max_pool2x2", c10::ArrayRef<c10::IValue>());
  return kernels::in_fastest_precision(images, conv, kernels::fastest_pooled);
}

}  // namespace lockstep
