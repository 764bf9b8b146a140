// Cyclic redundancy checks of 32 bits, bits taken from the lowest up, as zip files and TensorBoard's records use them.
#pragma once

#include <cstdint>
#include <string_view>

namespace lockstep {

/// The CRC-32 of zip, gzip and PNG (polynomial 0x04c11db7).
uint32_t crc32(std::string_view bytes);

/// CRC-32C, Castagnoli's (polynomial 0x1edc6f41; RFC 3720, appendix B.4 has vectors).
uint32_t crc32c(std::string_view bytes);

}  // namespace lockstep
