#include "kernels/conv/pooled_gradient.h"

#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <bit>
#include <memory>

#include "kernels/conv/pooled_gradient_kernels.h"
#include "kernels/conv/stepping.h"
#include "kernels/parallel.h"

namespace lockstep::kernels {
namespace {

static_assert(kOutMultiple % kPooledBlock == 0);

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Images are summed in groups, at most so many, of at least so many images: not by the thread, so that bits do not
// depend on threads.
constexpr int64_t kMostGroups = 16;
constexpr int64_t kLeastGroup = 8;
// Groups of many weights are fewer: their sums are written to memory and added up again.
constexpr int64_t kSumBytes = 16 << 20;
constexpr int64_t kGroupsOfMany = 4;
// What a band of windows may take of the first cache and of the second.
constexpr int64_t kChoiceBytes = 16 << 10;
constexpr int64_t kTablesBytes = 384 << 10;

template <typename Value>
const std::optional<PooledGradientKernels<Value>>& pooled_loops() {
  static const std::optional<PooledGradientKernels<Value>> found = pooled_gradient_kernels<Value>();
  return found;
}

template <typename Value>
ConvGradients gradients_of(const at::Tensor& images, const at::Tensor& gradient, const at::Tensor& winners,
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
  const int64_t of_weights = weight.numel(), part_size = of_weights + all.out_channels;
  const auto fit = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(kSumBytes / (part_size * 4))));
  const int64_t most = std::clamp(fit, kGroupsOfMany, kMostGroups);
  const int64_t group_size = std::max(kLeastGroup, (count + most - 1) / most);
  const int64_t groups = (count + group_size - 1) / group_size;
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
  return sum_of(parts, weight);
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
    ConvGradients of;
    if (context->saved_data["wanted"].toBool()) {
      const variable_list kept = context->get_saved_variables();
      const Padding padding{context->saved_data["rows"].toInt(), context->saved_data["columns"].toInt()};
      const at::ScalarType type = kept[0].scalar_type();
      const at::Tensor gradient = gradients[0].to(type).contiguous(at::MemoryFormat::ChannelsLast);
      of = type == at::kFloat ? gradients_of<float>(kept[0], gradient, kept[1], kept[2], padding)
                              : gradients_of<uint16_t>(kept[0], gradient, kept[1], kept[2], padding);
    }
    return {gradients[0], at::Tensor(), at::Tensor(), of.weight, of.bias, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

bool pooled_gradient_takes(const at::Tensor& images, const torch::nn::Conv2dImpl& conv) {
  const auto type = stepping_type(images, conv);
  if (!type) return false;
  const Padding padding = *padding_of(conv);
  if (images.size(2) + 2 * padding.rows <= conv.weight.size(2)) return false;  // one row comes out
  if (images.size(3) + 2 * padding.columns <= conv.weight.size(3)) return false;
  return *type == at::kFloat ? pooled_loops<float>().has_value() : pooled_loops<uint16_t>().has_value();
}

at::Tensor with_pooled_gradient(const at::Tensor& pooled, const at::Tensor& winners, const at::Tensor& images,
                                const torch::nn::Conv2dImpl& conv) {
  const Padding padding = *padding_of(conv);
  // Images of one channel lie in both layouts, so what LibTorch makes of them may lie in the other.
  return PooledGradient::apply(pooled, winners.contiguous(at::MemoryFormat::ChannelsLast),
                               images.detach().to(pooled.scalar_type()), conv.weight, bias_of(conv), padding.rows,
                               padding.columns);
}

}  // namespace lockstep::kernels
