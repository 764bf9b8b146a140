// max_pool2x2 for those who want its winners, too.
#pragma once

#include <ATen/core/Tensor.h>

namespace lockstep::kernels {

struct Pooled {
  at::Tensor out;
  at::Tensor winners;  ///< bytes shaped as out: the place of each value in its window, 0 to 3 row by row
};

/// images: of float32 or bfloat16 on the CPU, dense, contiguous or channels_last, of 2x2 pixels or more.
Pooled max_pool2x2_and_winners(const at::Tensor& images);

}  // namespace lockstep::kernels
