// Convolutions that are faster on CPUs than LibTorch's, where they can be.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/modules/conv.h>

#include <cstdint>
#include <memory>
#include <optional>

namespace lockstep {

/// Limits of Winograd's method in `fast_conv2d`: the largest product of input channels (filled up to a multiple of 32)
/// and output channels. A filter becomes 36 values. Up to 2^18 of them (1 MiB in float32) stay in a second-level cache,
/// so any number of images will do. Up to 2^22, the transform of the filters costs as much as the products of
/// kWinogradLeastTiles tiles, so there must be as many in all images. Gains: docs/performance.md.
inline constexpr int64_t kWinogradFewChannels = (int64_t{1} << 18) / 36;   // 7,281
inline constexpr int64_t kWinogradMostChannels = (int64_t{1} << 22) / 36;  // 116,508
inline constexpr int64_t kWinogradLeastTiles = 32;

/// images: [n, c, h, w] → conv(images), as the module's own forward, autocast included. By loops of our own where
/// images are channels_last and dense, on the CPU, and the convolution has stride 1 and zeros around, and
/// - in float32 outside autocast, on a CPU with AVX-512, the images have at most 4 channels and need no gradient, and a
///   multiple of 32 channels comes out: LibTorch's loops are made for many input channels and reach half the
///   processor's speed with three. The same under autocast to bfloat16 on AMD's CPUs with AVX-512's products of
///   bfloat16, with sums and the weights' gradient in float32;
/// - in float32 outside autocast, on a CPU with AVX-512, the kernel is 3x3 or 5x5, at least 16 channels go in (they
///   are filled up to a multiple of 32), a multiple of 32 comes out, and one times the other is within the limits above
///   (a tile is 4x4 pixels of a 3x3 convolution and 2x2 of a 5x5 one): Winograd's method with six points
///   makes a 3x3 convolution of 36 products in place of 144, and a 5x5 one of 36 in place of 100. Against double
///   precision, outputs and gradients are off by up to 2e-6 of the largest, with 256 channels by up to 4e-6, the
///   gradients of 5x5 kernels by up to 6e-6: some five times LibTorch's rounding;
/// - the same under autocast to bfloat16 on AMD's CPUs with AVX-512's products of bfloat16, which take what is
///   transformed rounded to bfloat16 and weights that were float32 until then. Sums and the weights' gradient are of
///   float32. Against double precision of the same images the root mean square of what outputs and gradients are off by
///   is 1.0 to 1.5 % of theirs, again some five times LibTorch's rounding, and the most 2.5 % of the largest;
/// - in bfloat16, on a CPU with AMX, images have at most 8x8 pixels, and an odd square kernel keeps that size, without
///   a bias: the gradient of the weights is one matrix product for each of the kernel's places, two to five times as
///   fast as LibTorch's way; all else is LibTorch's.
/// Everything else is LibTorch's. ATEN_CPU_CAPABILITY holds these loops to a processor's kind as it does LibTorch's.
///
/// channels_last comes out where channels_last goes in, images of one channel or one pixel included: their strides say
/// both. The gradient of the weights has their layout.
///
/// Under autocast to bfloat16, channels_last images on a CPU that is slower in bfloat16 than in float32 - with neither
/// AMX nor AMD's AVX-512 - are convolved in float32, as outside it, with the weights as they are; bfloat16 comes out.
///
/// Agrees with LibTorch to rounding, not bit for bit. Bits repeat at the same number of threads. Local. Has no second
/// derivative where it is ours: backward with create_graph throws c10::Error.
at::Tensor fast_conv2d(const at::Tensor& images, torch::nn::Conv2dImpl& conv);

/// max_pool2x2(fast_conv2d(images, conv)), with the same bits, and the same bits in the images' gradient. The gradients
/// of the weights and the bias agree to rounding where they are made from the pools' winners alone: only one of a
/// window's four values has a gradient, another one in each channel, so three of four products are left out, whatever
/// the values are. (Where autocast to bfloat16 is computed in float32, see above, values are rounded after they are
/// pooled.) That is so where images are channels_last and dense, on the CPU, the convolution has stride 1, zeros
/// around and a multiple of 32 channels that come out, 2x2 or more come out of it, and the computation is
/// - in float32, outside autocast, on a CPU with AVX-512,
/// - or under autocast to bfloat16, with weights of float32, on AMD's CPUs with AVX-512's products of bfloat16: of the
///   images as they are, with sums in float32 that are not rounded to bfloat16 as LibTorch's are, so they are exacter
///   than those of fast_conv2d.
/// Their bits do not depend on the number of threads.
///
/// Where images have few channels (the first case above) a few rows of the convolution at a time are pooled while they
/// are in the first cache: four times what comes out is neither written to memory nor read.
at::Tensor fast_conv2d_max_pool2x2(const at::Tensor& images, torch::nn::Conv2dImpl& conv);

/// A torch::nn::Conv2d that does so, with the same options, parameters, names and initial values.
class FastConv2dImpl : public torch::nn::Conv2dImpl {
 public:
  using torch::nn::Conv2dImpl::Conv2dImpl;
  at::Tensor forward(const at::Tensor& images) { return fast_conv2d(images, *this); }
  std::shared_ptr<torch::nn::Module> clone(const std::optional<at::Device>& device = std::nullopt) const override;
};
TORCH_MODULE(FastConv2d);

}  // namespace lockstep
