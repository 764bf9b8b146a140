#include "lockstep/max_pool.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/record_function.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "kernels/max_pool.h"
#include "kernels/max_pool_kernels.h"
#include "kernels/parallel.h"

namespace lockstep::kernels {
namespace {

// Values that a thread takes at least.
constexpr int64_t kGrain = 1 << 16;

// Of images whose pixels lie side by side, each with its channels; of contiguous images each channel is one of one.
struct Shape {
  Shape(at::IntArrayRef sizes, bool contiguous)
      : images(contiguous ? sizes[0] * sizes[1] : sizes[0]),
        channels(contiguous ? 1 : sizes[1]),
        height(sizes[2]),
        width(sizes[3]),
        out_height(height / 2) {}
  int64_t row() const { return width * channels; }
  int64_t out_pixels() const { return width / 2; }
  int64_t out_row() const { return out_pixels() * channels; }
  int64_t out_rows() const { return images * out_height; }
  // Where the upper input row of an output row begins.
  int64_t upper(int64_t out_row_index) const {
    return (out_row_index / out_height * height + out_row_index % out_height * 2) * row();
  }
  int64_t images, channels, height, width, out_height;
};

template <typename Work>
void each_out_row(const Shape& shape, const Work& work) {
  parallel_for(0, shape.out_rows(), std::max<int64_t>(1, kGrain / std::max<int64_t>(1, 2 * shape.row())),
               [&](int64_t begin, int64_t end) {
                 for (int64_t row = begin; row < end; ++row) work(row);
               });
}

template <typename Bits>
void forward(const at::Tensor& images, at::Tensor& out, at::Tensor& winners) {
  static const PoolKernels<Bits> kernels = pool_kernels<Bits>(best_processor());
  const Shape shape(images.sizes(), images.is_contiguous());
  const auto* from = static_cast<const Bits*>(images.const_data_ptr());
  auto* to = static_cast<Bits*>(out.mutable_data_ptr());
  auto* winner = winners.mutable_data_ptr<uint8_t>();
  each_out_row(shape, [&](int64_t row) {
    const Bits* upper = from + shape.upper(row);
    const int64_t at = row * shape.out_row();
    kernels.forward(upper, upper + shape.row(), to + at, winner + at, shape.out_pixels(), shape.channels);
  });
}

template <typename Bits>
void backward(const at::Tensor& gradient, const at::Tensor& winners, at::Tensor& of_images) {
  static const PoolKernels<Bits> kernels = pool_kernels<Bits>(best_processor());
  const Shape shape(of_images.sizes(), of_images.is_contiguous());
  const auto* from = static_cast<const Bits*>(gradient.const_data_ptr());
  const auto* winner = winners.const_data_ptr<uint8_t>();
  auto* to = static_cast<Bits*>(of_images.mutable_data_ptr());
  each_out_row(shape, [&](int64_t row) {
    Bits* upper = to + shape.upper(row);
    const int64_t at = row * shape.out_row();
    kernels.backward(from + at, winner + at, upper, upper + shape.row(), shape.out_pixels(), shape.channels);
  });
}

bool ours(const at::Tensor& images) {
  return images.device().is_cpu() && images.layout() == at::kStrided && images.dim() == 4 &&
         (images.scalar_type() == at::kFloat || images.scalar_type() == at::kBFloat16) && images.numel() > 0 &&
         images.size(2) >= 2 && images.size(3) >= 2 &&
         (images.is_contiguous() || images.is_contiguous(at::MemoryFormat::ChannelsLast));
}

class Pool : public torch::autograd::Function<Pool> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const at::Tensor& images) {
    const std::vector<int64_t> sizes = {images.size(0), images.size(1), images.size(2) / 2, images.size(3) / 2};
    const at::MemoryFormat format = images.suggest_memory_format();
    at::Tensor out = at::empty(sizes, images.options().memory_format(format));
    at::Tensor winners = at::empty(sizes, images.options().dtype(at::kByte).memory_format(format));
    if (images.scalar_type() == at::kFloat) {
      kernels::forward<uint32_t>(images, out, winners);
    } else {
      kernels::forward<uint16_t>(images, out, winners);
    }
    context->saved_data["sizes"] = images.sizes();
    context->saved_data["format"] = format;
    context->save_for_backward({winners});
    context->mark_non_differentiable({winners});
    return {out, winners};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    TORCH_CHECK(!c10::GradMode::is_enabled(), "lockstep::max_pool2x2 has no second derivative");
    const at::Tensor winners = context->get_saved_variables()[0];
    const std::vector<int64_t> sizes = context->saved_data["sizes"].toIntVector();
    const at::MemoryFormat format = context->saved_data["format"].toMemoryFormat();
    const at::Tensor gradient = gradients[0].contiguous(format);
    at::Tensor of_images = at::empty(sizes, gradient.options().memory_format(format));
    // No window has an odd last row or column.
    if (sizes[2] % 2 != 0) of_images.narrow(2, sizes[2] - 1, 1).zero_();
    if (sizes[3] % 2 != 0) of_images.narrow(3, sizes[3] - 1, 1).zero_();
    if (gradient.scalar_type() == at::kFloat) {
      kernels::backward<uint32_t>(gradient, winners, of_images);
    } else {
      kernels::backward<uint16_t>(gradient, winners, of_images);
    }
    return {of_images};
  }
};

}  // namespace

Pooled max_pool2x2_and_winners(const at::Tensor& images) {
  RECORD_FUNCTION("lockstep::max_pool2x2", c10::ArrayRef<c10::IValue>());
  TORCH_INTERNAL_ASSERT(ours(images));
  const torch::autograd::variable_list both = Pool::apply(images);
  return {both[0], both[1]};
}

}  // namespace lockstep::kernels

namespace lockstep {

at::Tensor max_pool2x2(const at::Tensor& images) {
  RECORD_FUNCTION("lockstep::max_pool2x2", c10::ArrayRef<c10::IValue>());
  return kernels::ours(images) ? kernels::Pool::apply(images)[0] : at::max_pool2d(images, 2);
}

}  // namespace lockstep
