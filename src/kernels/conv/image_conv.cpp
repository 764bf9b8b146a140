#include "kernels/conv/image_conv.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <type_traits>
#include <vector>

#include "kernels/conv/image_conv_kernels.h"
#include "kernels/conv/stepping.h"
#include "kernels/max_pool_kernels.h"
#include "kernels/parallel.h"

namespace lockstep::kernels {
namespace {

static_assert(kOutMultiple % kOutBlock == 0);

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Images whose part of the weights' gradient is summed before all are: not by the thread, so that bits do not depend
// on threads.
constexpr int64_t kGroup = 8;

template <typename Kernels>
const std::optional<Kernels>& conv_loops();
template <>
const std::optional<Float32Kernels>& conv_loops<Float32Kernels>() {
  static const std::optional<Float32Kernels> found = float32_conv_kernels();
  return found;
}
template <>
const std::optional<BFloat16Kernels>& conv_loops<BFloat16Kernels>() {
  static const std::optional<BFloat16Kernels> found = bfloat16_conv_kernels();
  return found;
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

// Some rows of one image's output at a time, an even number that stays in the first cache.
template <typename Element>
class Strips {
 public:
  explicit Strips(const ConvShape& shape)
      : shape_(shape),
        rows_(std::max<int64_t>(2, kCachedValues / (shape.width * shape.out_channels) / 2 * 2)),
        values_(static_cast<size_t>(rows_ * shape.width * shape.out_channels)) {}

  /// Calls work(the strip's shape, its first row, room for its values) for all strips of the first `height` rows.
  template <typename Work>
  void each(int64_t height, const Work& work) {
    for (int64_t y = 0; y < height; y += rows_) {
      ConvShape strip = shape_;
      strip.height = std::min(rows_, height - y);
      work(strip, y, values_.data());
    }
  }

 private:
  ConvShape shape_;
  int64_t rows_;
  std::vector<Element> values_;
};

// An even number of rows, pooled; of an odd last column nothing.
template <typename Value>
void pool_rows(const ConvShape& rows, const Value* values, Value* out, uint8_t* winners) {
  using Bits = std::conditional_t<sizeof(Value) == 2, uint16_t, uint32_t>;
  static const PoolKernels<Bits> pool = pool_kernels<Bits>(best_processor());
  const int64_t row = rows.width * rows.out_channels, pooled_row = rows.width / 2 * rows.out_channels;
  for (int64_t y = 0; y < rows.height; y += 2, out += pooled_row, winners += pooled_row) {
    const auto* upper = static_cast<const Bits*>(static_cast<const void*>(values + y * row));
    pool.forward(upper, upper + row, static_cast<Bits*>(static_cast<void*>(out)), winners, rows.width / 2,
                 rows.out_channels);
  }
}

// An image's padded values as backward takes them.
const float* sights_of(const Frame<float>&, const float* padded, const ConvShape&, std::vector<float>&) {
  return padded;
}
const uint32_t* sights_of(const Frame<uint16_t>& frame, const uint16_t* padded, const ConvShape& shape,
                          std::vector<uint32_t>& room) {
  room.resize(static_cast<size_t>(frame.count()));
  conv_loops<BFloat16Kernels>()->see(padded, room.data(), frame.count(), shape.channels);
  return room.data();
}

// The gradients of some rows as backward takes them: in `values`, where it is not what is there.
const float* gradients_of(const ConvShape&, const float* gradient, float*) { return gradient; }
const uint32_t* gradients_of(const ConvShape& rows, const uint16_t* gradient, uint32_t* values) {
  const int64_t row = rows.width * rows.out_channels, paired_row = (rows.width + 1) / 2 * rows.out_channels;
  for (int64_t y = 0; y < rows.height; ++y) {
    conv_loops<BFloat16Kernels>()->pair(gradient + y * row, values + y * paired_row, rows.width, rows.out_channels);
  }
  return values;
}

// Weights as forward takes them.
at::Tensor packed(const at::Tensor& weight, const Float32Kernels&) { return weight.permute({2, 3, 1, 0}).contiguous(); }
at::Tensor packed(const at::Tensor& weight, const BFloat16Kernels&) {
  const int64_t rows = weight.size(2), taps = weight.size(3) * weight.size(1), out = weight.size(0);
  const at::Tensor by_row = weight.permute({2, 3, 1, 0}).reshape({rows, taps, out});
  at::Tensor pairs = at::zeros({rows, (taps + 1) / 2, out, 2}, weight.options().dtype(at::kBFloat16));
  pairs.select(3, 0).copy_(by_row.slice(1, 0, taps, 2));
  pairs.select(3, 1).narrow(1, 0, taps / 2).copy_(by_row.slice(1, 1, taps, 2));
  return pairs;
}

template <typename Value>
constexpr int64_t kBehind = sizeof(Value) == 2 ? 4 : 0;  // values after a frame that pairs at its end reach

template <typename Kernels>
at::Tensor convolve(const at::Tensor& images, const at::Tensor& weight, const at::Tensor& bias,
                    const Padding& padding) {
  using Value = typename Kernels::Value;
  const Kernels& loops = *conv_loops<Kernels>();
  const ConvShape shape = shape_of(images, weight, padding);
  at::Tensor out = at::empty({images.size(0), shape.out_channels, shape.height, shape.width},
                             images.options().memory_format(at::MemoryFormat::ChannelsLast));
  const at::Tensor weights = packed(weight, loops);
  auto* to = static_cast<Value*>(out.mutable_data_ptr());
  const int64_t out_image = shape.height * shape.width * shape.out_channels;
  parallel_for(0, images.size(0), 1, [&](int64_t begin, int64_t end) {
    Frame<Value> frame(images, padding, shape.padded_row, kBehind<Value>);
    for (int64_t i = begin; i < end; ++i) {
      loops.forward(shape, frame.show(i), values_of<typename Kernels::Sight>(weights), bias.const_data_ptr<float>(),
                    to + i * out_image);
    }
  });
  return out;
}

template <typename Kernels>
Pooled convolve_and_pool(const at::Tensor& images, const at::Tensor& weight, const at::Tensor& bias,
                         const Padding& padding) {
  using Value = typename Kernels::Value;
  const Kernels& loops = *conv_loops<Kernels>();
  const ConvShape shape = shape_of(images, weight, padding);
  const std::vector<int64_t> sizes = {images.size(0), shape.out_channels, shape.height / 2, shape.width / 2};
  const auto options = images.options().memory_format(at::MemoryFormat::ChannelsLast);
  Pooled pooled{at::empty(sizes, options), at::empty(sizes, options.dtype(at::kByte))};
  const at::Tensor weights = packed(weight, loops);
  auto* to = static_cast<Value*>(pooled.out.mutable_data_ptr());
  auto* winner = pooled.winners.mutable_data_ptr<uint8_t>();
  const int64_t out_row = sizes[1] * sizes[3], out_image = out_row * sizes[2];
  parallel_for(0, images.size(0), 1, [&](int64_t begin, int64_t end) {
    Frame<Value> frame(images, padding, shape.padded_row, kBehind<Value>);
    Strips<Value> strips(shape);
    for (int64_t i = begin; i < end; ++i) {
      const Value* padded = frame.show(i);
      strips.each(shape.height / 2 * 2, [&](const ConvShape& strip, int64_t y, Value* values) {
        loops.forward(strip, padded + y * shape.padded_row, values_of<typename Kernels::Sight>(weights),
                      bias.const_data_ptr<float>(), values);
        const int64_t at = i * out_image + y / 2 * out_row;
        pool_rows(strip, values, to + at, winner + at);
      });
    }
  });
  return pooled;
}

template <typename Kernels>
struct ImageConv : torch::autograd::Function<ImageConv<Kernels>> {
  using Value = typename Kernels::Value;
  using Sight = typename Kernels::Sight;

  // images: of Value; weight, bias: float32.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& images, const at::Tensor& weight,
                            const at::Tensor& bias, int64_t rows, int64_t columns) {
    context->save_for_backward({images, weight});
    context->saved_data["rows"] = rows;
    context->saved_data["columns"] = columns;
    return convolve<Kernels>(images, weight, bias, {rows, columns});
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    TORCH_CHECK(!c10::GradMode::is_enabled(), "lockstep::fast_conv2d has no second derivative");
    const Kernels& loops = *conv_loops<Kernels>();
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
    const auto* from = values_of<Value>(gradient);
    const int64_t out_row = shape.width * shape.out_channels, out_image = out_row * shape.height;
    parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
      Frame<Value> frame(images, padding, shape.padded_row, kBehind<Value>);
      Strips<Sight> strips(shape);
      std::vector<Sight> room;
      for (int64_t group = begin; group < end; ++group) {
        float* part = parts.mutable_data_ptr<float>() + group * (of_weights + shape.out_channels);
        for (int64_t i = group * kGroup; i < std::min(count, (group + 1) * kGroup); ++i) {
          const Sight* padded = sights_of(frame, frame.show(i), shape, room);
          strips.each(shape.height, [&](const ConvShape& strip, int64_t y, Sight* values) {
            const Sight* of_rows = gradients_of(strip, from + i * out_image + y * out_row, values);
            loops.backward(strip, padded + y * shape.padded_row, of_rows, part, part + of_weights);
          });
        }
      }
    });
    const ConvGradients sum = sum_of(parts, weight);
    return {at::Tensor(), sum.weight, sum.bias, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

bool image_conv_takes(const at::Tensor& images, const torch::nn::Conv2dImpl& conv) {
  const auto type = stepping_type(images, conv);
  if (!type || images.size(1) > 4 || images.requires_grad()) return false;
  return *type == at::kFloat ? conv_loops<Float32Kernels>().has_value() : conv_loops<BFloat16Kernels>().has_value();
}

at::Tensor image_conv2d(const at::Tensor& images, const torch::nn::Conv2dImpl& conv) {
  const Padding padding = *padding_of(conv);
  const at::Tensor bias = bias_of(conv);
  if (*stepping_type(images, conv) == at::kFloat) {
    return ImageConv<Float32Kernels>::apply(images, conv.weight, bias, padding.rows, padding.columns);
  }
  return ImageConv<BFloat16Kernels>::apply(images.to(at::kBFloat16), conv.weight, bias, padding.rows, padding.columns);
}

Pooled image_conv2d_max_pool2x2(const at::Tensor& images, const torch::nn::Conv2dImpl& conv) {
  const at::NoGradGuard no_grad;
  const Padding padding = *padding_of(conv);
  const at::Tensor bias = bias_of(conv);
  if (*stepping_type(images, conv) == at::kFloat) {
    return convolve_and_pool<Float32Kernels>(images, conv.weight, bias, padding);
  }
  return convolve_and_pool<BFloat16Kernels>(images.to(at::kBFloat16), conv.weight, bias, padding);
}

}  // namespace lockstep::kernels
