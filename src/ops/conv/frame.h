// Images of channels_last tensors, one at a time with zeros around them, for loops that step over windows.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/modules/conv.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <variant>
#include <vector>

namespace lockstep {

struct Padding {
  int64_t rows, columns;
};

/// None where it is said by a word.
inline std::optional<Padding> padding_of(const torch::nn::Conv2dImpl& conv) {
  const auto* numbers = std::get_if<torch::ExpandingArray<2>>(&conv.options.padding());
  if (numbers == nullptr) return std::nullopt;
  return Padding{(**numbers)[0], (**numbers)[1]};
}

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

}  // namespace lockstep
