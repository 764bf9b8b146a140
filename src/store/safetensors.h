// Files of the safetensors format: a JSON header, then the tensors' bytes, and no code.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <c10/core/ScalarType.h>

#include "lockstep/weights.h"
#include "store/zip_reader.h"

namespace lockstep {

/// Names and texts in order: the `__metadata__` of a file.
using Metadata = std::vector<std::pair<std::string, std::string>>;

struct Safetensors {
  NamedTensors tensors;
  Metadata metadata;
};

/// The bytes of a file. Tensors of larger elements come first, so that each is aligned to its own; among equals the
/// order is the caller's, and the same tensors give the same bytes. A tensor on a device is copied to the host. Throws
/// Error (internal) for what the format cannot say: a name given twice, a text that is not UTF-8, a tensor that is not
/// dense or of a type without a name there.
std::string safetensors_bytes(const NamedTensors& tensors, const Metadata& metadata);

/// The same bytes where they are, so that a file needs no second copy of its tensors.
struct SafetensorsPieces {
  std::string header;    ///< its eight length bytes, its text and its padding
  NamedTensors tensors;  ///< dense, on the host, in the order of their bytes

  /// In the order of the file; they live as long as this. Tensors that lie one behind the other are one piece.
  std::vector<std::string_view> views() const;
  std::string joined() const;
};

/// The data begins at a multiple of `alignment`, which is one of 8. Throws as safetensors_bytes does.
SafetensorsPieces safetensors_pieces(const NamedTensors& tensors, const Metadata& metadata, std::size_t alignment = 8);

/// In the order of the data of a file: each tensor's place in `tensors`.
std::vector<std::size_t> order_of_data(const NamedTensors& tensors);

/// Tensors that own their memory, in the order of their bytes. Format: huggingface/safetensors, README.md, and no laxer
/// than its reader: a header of at most 100 MB, no name twice, and data without a hole or overlap up to the file's end.
/// Allocates no more than a small multiple of `bytes` says. Throws Malformed.
Safetensors read_safetensors(std::string_view bytes);

// --- for those who look before they copy ---

/// A tensor that lies in the bytes of a file.
struct TensorView {
  std::string name;
  c10::ScalarType type = c10::ScalarType::Undefined;
  std::vector<int64_t> shape;
  std::string_view data;  ///< row-major, little-endian

  at::Tensor copy() const;
};

struct SafetensorsView {
  std::vector<TensorView> tensors;
  Metadata metadata;
  std::string_view header;  ///< its eight length bytes, its text and its padding
};

/// As read_safetensors, but copies no tensor: `bytes` outlives the view. Throws Malformed.
SafetensorsView view_safetensors(std::string_view bytes);

/// Copies every tensor.
NamedTensors copy_tensors(const SafetensorsView& view);

/// A dense copy on the host whose bytes are its elements in row-major order, or `tensor` itself if it is one. Throws
/// Error (internal) naming `name`.
at::Tensor flat_on_host(const std::string& name, const at::Tensor& tensor);

/// The bytes of what flat_on_host gives.
std::string_view data_of(const at::Tensor& flat);

}  // namespace lockstep
