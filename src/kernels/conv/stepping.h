// What loops have in common that step over the windows of channels_last images: which convolutions are theirs, images
// one at a time with zeros around them, and sums.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/modules/conv.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

namespace lockstep::kernels {

constexpr int64_t kOutMultiple = 32;  ///< a multiple of it comes out

/// The type that such loops compute in, float32 or, by autocast, bfloat16; none where a convolution is not theirs.
/// images: dense, channels_last and on the CPU, weights and bias of float32; stride 1, zeros around; 32 channels come
/// out or a multiple, and at least one pixel.
std::optional<at::ScalarType> stepping_type(const at::Tensor& images, const torch::nn::Conv2dImpl& conv);

/// conv's, or zeros.
at::Tensor bias_of(const torch::nn::Conv2dImpl& conv);

struct ConvGradients {
  at::Tensor weight, bias;
};

/// parts: [n, weight.numel() + out channels], each the gradients of the weight, [kernel height, kernel width, in, out],
/// and of the bias. They are added up in their order, in the first.
ConvGradients sum_of(const at::Tensor& parts, const at::Tensor& weight);

struct Padding {
  int64_t rows, columns;
};

/// None where it is said by a word.
std::optional<Padding> padding_of(const torch::nn::Conv2dImpl& conv);

/// A tensor's values as loops take them: bfloat16 by its bits.
template <typename Value>
const Value* values_of(const at::Tensor& tensor) {
  return static_cast<const Value*>(tensor.const_data_ptr());
}

template <typename Value>
class Frame {
 public:
  /// images: [n, c, h, w]. A row has padded_row values, at least those of an image's and of the padding on both sides;
  /// `more` zeros follow the last row.
  Frame(const at::Tensor& images, const Padding& padding, int64_t padded_row, int64_t more)
      : from_(values_of<Value>(images)),
        rows_(images.size(2)),
        row_(images.size(3) * images.size(1)),
        padded_row_(padded_row),
        first_(padding.rows * padded_row + padding.columns * images.size(1)),
        count_((rows_ + 2 * padding.rows) * padded_row),
        padded_(static_cast<size_t>(count_ + more)) {}

  int64_t count() const { return count_; }  ///< values that show() gives, without those that follow

  const Value* show(int64_t image) {
    const Value* from = from_ + image * rows_ * row_;
    for (int64_t y = 0; y < rows_; ++y) {
      std::memcpy(padded_.data() + first_ + y * padded_row_, from + y * row_, static_cast<size_t>(row_) * sizeof *from);
    }
    return padded_.data();
  }

 private:
  const Value* from_;
  int64_t rows_, row_, padded_row_, first_, count_;
  std::vector<Value> padded_;
};

}  // namespace lockstep::kernels
