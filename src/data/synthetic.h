// The mark that synthetic data carries in its files.
#pragma once

#include <cstdint>
#include <string_view>

namespace lockstep {

/// The pixels of the first record of a synthetic file begin with this text and the number of the file's records, eight
/// bytes, little-endian. The rest of that image is as any other.
inline constexpr std::string_view kSyntheticSignature = "LOCKSTEP SYNTHETIC";
inline constexpr int64_t kSyntheticSignatureBytes = static_cast<int64_t>(kSyntheticSignature.size()) + 8;

}  // namespace lockstep
