// Short names of bytes and tensors: equal digests mean equal bits.
#pragma once

#include <string>
#include <string_view>

#include <ATen/core/Tensor.h>

namespace lockstep {

/// The 128 bits of XXH3 as 32 hexadecimal digits, as `xxhsum -H2` prints them. Not proof against someone who means to
/// deceive.
std::string digest_bytes(std::string_view bytes);

/// Covers dtype, shape and the bits of every element in row-major order, so NaN payloads and the sign of zero count;
/// strides, device and requires_grad do not. An undefined tensor has a digest of its own. A tensor on a device is
/// copied to the host. Throws Error (ExitCode::internal) when it is not dense.
std::string digest_tensor(const at::Tensor& tensor);

/// The same for a row-major tensor whose bytes' digest is known.
std::string digest_tensor(const at::Tensor& tensor, const std::string& digest_of_bytes);

}  // namespace lockstep
