// Checkpoints: all that a run needs to go on, in one file that says by itself whether it is whole
// (docs/checkpoints.md).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "lockstep/weights.h"
#include "store/safetensors.h"

namespace lockstep {

/// The tensors of the model are named so in a checkpoint: "model.conv1.weight".
inline constexpr std::string_view kModelPrefix = "model.";
inline constexpr std::string_view kOptimizerPrefix = "optimizer.";
inline constexpr std::string_view kAverageSuffix = ".average";

struct Checkpoint {
  NamedTensors tensors;
  std::string state;  ///< a JSON text that this room does not look into
};

/// The bytes of a checkpoint, with digests over every one of them. A tensor on a device is copied to the host. Throws
/// Error (internal) as safetensors_bytes does.
std::string checkpoint_bytes(const NamedTensors& tensors, const std::string& state_json);

/// The same bytes where they are. `digests` has digest_bytes of each tensor's data, or nothing.
SafetensorsPieces checkpoint_pieces(const NamedTensors& tensors, const std::string& state_json,
                                    const std::vector<std::string>& digests = {});

/// Memory for copies of such tensors, in the host's and not initialised. The data of a checkpoint of these copies lies
/// in one piece, from a page on, as it does in the file when that is large: it goes to the disk without another copy.
NamedTensors checkpoint_memory(const NamedTensors& tensors);

/// Verifies every byte before a tensor is copied. The tensors own their memory. Throws Malformed saying which part does
/// not verify.
Checkpoint read_checkpoint(std::string_view bytes);

/// Whether a safetensors file is meant as a checkpoint, be it damaged or of a later format.
bool is_checkpoint(const Metadata& metadata);

}  // namespace lockstep
