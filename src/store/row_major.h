// Elements in the order in which files and digests have them.
#pragma once

#include <ATen/core/Tensor.h>

namespace lockstep {

/// A dense tensor's values in host memory in row-major order: the tensor itself where it is so, else a copy. As
/// Tensor::contiguous, but several times as fast for channels_last.
at::Tensor row_major(const at::Tensor& tensor);

/// The same, and always a copy: in `memory`, a tensor of nobody else's, where that has the same sizes and type.
at::Tensor row_major_copy(const at::Tensor& tensor, const at::Tensor& memory = {});

}  // namespace lockstep
