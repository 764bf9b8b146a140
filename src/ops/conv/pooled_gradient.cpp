#include "ops/conv/pooled_gradient.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <memory>
#include <variant>

#include "ops/conv/frame.h"
#include "ops/conv/pooled_gradient_kernels.h"
#include "ops/parallel.h"

namespace lockstep {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Images are summed in groups, at most so many, of at least so many images: not by the thread, so that bits do not
// depend on threads.
constexpr int64_t kMostGroups = 16;
constexpr int64_t kLeastGroup = 8;
// What a band of windows may take of the first cache and of the second.
constexpr int64_t kChoiceBytes = 16 << 10;
constexpr int64_t kTablesBytes = 384 << 10;

template <typename Value>
const std::optional<PooledGradientKernels<Value>>& pooled_loops() {
  static const std::optional<PooledGradientKernels<Value>> found = pooled_gradient_kernels<Value>();
  return found;
}

// The weights' and then the bias's, in the order of the loops.
template <typename Value>
at::Tensor sums_of(const at::Tensor& images, const at::Tensor& gradient, const at::Tensor& winners,
                   const at::Tensor& weight, const Padding& padding) {
  using Kernels = PooledGradientKernels<Value>;
  const Kernels& loops = *pooled_loops<Value>();
  PooledShape all{.windows_down = gradient.size(2),
                  .windows_across = gradient.size(3),
                  .kernel_height = weight.size(2),
                  .row_taps = weight.size(3) * weight.size(1),
                  .channels = weight.size(1),
                  .padded_row = 0,
                  .out_channels = weight.size(0)};
  const int64_t across = all.tables_across(Kernels::kWindows), steps = all.steps(Kernels::kWindows);
  all.padded_row = std::max((images.size(3) + 2 * padding.columns) * all.channels,
                            across + (2 * Kernels::kWindows - 1) * all.channels);
  const int64_t by_choices = kChoiceBytes / (steps * 2 * kPooledBlock * 4);
  const int64_t by_tables = (kTablesBytes / (across * kTableBytes) - all.kernel_height) / 2 + 1;
  const int64_t band = std::clamp<int64_t>(std::min(by_choices, by_tables), 1, all.windows_down);

  const int64_t count = images.size(0);
  const int64_t group_size = std::max(kLeastGroup, (count + kMostGroups - 1) / kMostGroups);
  const int64_t groups = (count + group_size - 1) / group_size;
  const int64_t of_weights = weight.numel(), part_size = of_weights + all.out_channels;
  const at::Tensor parts = at::zeros({groups, part_size});
  const auto* from = values_of<Value>(gradient);
  const auto* winner = winners.const_data_ptr<uint8_t>();
  parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
    Frame<Value> frame(images, padding, all.padded_row, 0);
    PooledShape shape = all;
    shape.windows_down = band;
    const auto tables =
        std::make_unique_for_overwrite<Value[]>(static_cast<size_t>(shape.table_rows() * across * Kernels::kTable));
    const auto choices =
        std::make_unique_for_overwrite<uint32_t[]>(static_cast<size_t>(band * steps * 2 * all.out_channels));
    for (int64_t group = begin; group < end; ++group) {
      float* part = parts.mutable_data_ptr<float>() + group * part_size;
      for (int64_t i = group * group_size; i < std::min(count, (group + 1) * group_size); ++i) {
        const Value* padded = frame.show(i);
        for (int64_t y = 0; y < all.windows_down; y += band) {
          shape.windows_down = std::min(band, all.windows_down - y);
          const int64_t at = (i * all.windows_down + y) * all.windows_across * all.out_channels;
          loops.tables(shape, padded + 2 * y * all.padded_row, tables.get());
          loops.choices(shape, from + at, winner + at, choices.get());
          loops.add_products(shape, tables.get(), choices.get(), part);
          loops.add_gradients(shape, from + at, part + of_weights);
        }
      }
    }
  });
  float* total = parts.mutable_data_ptr<float>();
  for (int64_t group = 1; group < groups; ++group) {
    const float* part = total + group * part_size;
    for (int64_t k = 0; k < part_size; ++k) total[k] += part[k];
  }
  return parts[0];
}

struct PooledGradient : torch::autograd::Function<PooledGradient> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& pooled, const at::Tensor& winners,
                            const at::Tensor& images, const at::Tensor& weight, const at::Tensor& bias, int64_t rows,
                            int64_t columns) {
    context->save_for_backward({images, winners, weight});
    context->saved_data["wanted"] = weight.requires_grad() || bias.requires_grad();
    context->saved_data["rows"] = rows;
    context->saved_data["columns"] = columns;
    return pooled.detach();  // as it is: autograd would make a view of an input
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    TORCH_CHECK(!c10::GradMode::is_enabled(), "lockstep::fast_conv2d_max_pool2x2 has no second derivative");
    at::Tensor of_weight, of_bias;
    if (context->saved_data["wanted"].toBool()) {
      const variable_list kept = context->get_saved_variables();
      const at::Tensor& weight = kept[2];
      const Padding padding{context->saved_data["rows"].toInt(), context->saved_data["columns"].toInt()};
      const at::Tensor gradient = gradients[0].contiguous(at::MemoryFormat::ChannelsLast);
      const at::Tensor sum = gradient.scalar_type() == at::kFloat
                                 ? sums_of<float>(kept[0], gradient, kept[1], weight, padding)
                                 : sums_of<uint16_t>(kept[0], gradient, kept[1], weight, padding);
      of_weight = sum.narrow(0, 0, weight.numel())
                      .view({weight.size(2), weight.size(3), weight.size(1), weight.size(0)})
                      .permute({3, 2, 0, 1})
                      .contiguous(weight.suggest_memory_format());
      of_bias = sum.narrow(0, weight.numel(), weight.size(0)).clone();
    }
    return {gradients[0], at::Tensor(), at::Tensor(), of_weight, of_bias, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

bool pooled_gradient_takes(const at::Tensor& images, const torch::nn::Conv2dImpl& conv) {
  const auto& options = conv.options;
  const auto ones = [](const torch::ExpandingArray<2>& pair) { return (*pair)[0] == 1 && (*pair)[1] == 1; };
  const auto dense = [](const at::Tensor& tensor) {
    return tensor.device().is_cpu() && tensor.layout() == at::kStrided;
  };
  const auto plain = [&](const at::Tensor& tensor) { return dense(tensor) && tensor.scalar_type() == at::kFloat; };
  if (at::autocast::is_autocast_enabled(at::kCPU)) {
    if (!pooled_loops<uint16_t>() || at::autocast::get_autocast_dtype(at::kCPU) != at::kBFloat16) return false;
    if (!plain(images) && !(dense(images) && images.scalar_type() == at::kBFloat16)) return false;
  } else if (!pooled_loops<float>() || !plain(images)) {
    return false;
  }
  const auto padding = padding_of(conv);
  return images.dim() == 4 && images.numel() > 0 && images.is_contiguous(at::MemoryFormat::ChannelsLast) &&
         plain(conv.weight) && !(conv.bias.defined() && !(plain(conv.bias) && conv.bias.is_contiguous())) && padding &&
         ones(options.stride()) && ones(options.dilation()) && options.groups() == 1 &&
         std::holds_alternative<torch::enumtype::kZeros>(options.padding_mode()) &&
         options.out_channels() % kPooledBlock == 0 && options.in_channels() == images.size(1) &&
         images.size(2) + 2 * padding->rows >= conv.weight.size(2) + 1 &&
         images.size(3) + 2 * padding->columns >= conv.weight.size(3) + 1;
}

at::Tensor with_pooled_gradient(const at::Tensor& pooled, const at::Tensor& winners, const at::Tensor& images,
                                const torch::nn::Conv2dImpl& conv) {
  const Padding padding = *padding_of(conv);
  const at::Tensor bias = conv.bias.defined() ? conv.bias : at::zeros({conv.options.out_channels()});
  // Images of one channel lie in both layouts, so what LibTorch makes of them may lie in the other.
  return PooledGradient::apply(pooled, winners.contiguous(at::MemoryFormat::ChannelsLast),
                               images.detach().to(pooled.scalar_type()), conv.weight, bias, padding.rows,
                               padding.columns);
}

}  // namespace lockstep
