#include "store/crc32.h"

#include <array>

namespace lockstep {
namespace {

// tables[0] advances a check by one byte; tables[k] by that byte and k zero bytes, so four bytes are taken at once.
using Tables = std::array<std::array<uint32_t, 256>, 4>;

constexpr Tables make_tables(uint32_t reversed_polynomial) {
  Tables tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t check = byte;
    for (int bit = 0; bit < 8; ++bit) check = check >> 1 ^ (check & 1 ? reversed_polynomial : 0);
    tables[0][byte] = check;
  }
  for (std::size_t k = 1; k < tables.size(); ++k) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const uint32_t check = tables[k - 1][byte];
      tables[k][byte] = check >> 8 ^ tables[0][check & 0xff];
    }
  }
  return tables;
}

constexpr Tables kZip = make_tables(0xedb88320);
constexpr Tables kCastagnoli = make_tables(0x82f63b78);

uint32_t byte_at(std::string_view bytes, std::size_t i) { return static_cast<uint8_t>(bytes[i]); }

uint32_t check_of(const Tables& tables, std::string_view bytes) {
  uint32_t check = 0xffffffff;
  std::size_t i = 0;
  for (; i + 4 <= bytes.size(); i += 4) {
    check ^= byte_at(bytes, i) | byte_at(bytes, i + 1) << 8 | byte_at(bytes, i + 2) << 16 | byte_at(bytes, i + 3) << 24;
    check =
        tables[3][check & 0xff] ^ tables[2][check >> 8 & 0xff] ^ tables[1][check >> 16 & 0xff] ^ tables[0][check >> 24];
  }
  for (; i < bytes.size(); ++i) check = check >> 8 ^ tables[0][(check ^ byte_at(bytes, i)) & 0xff];
  return ~check;
}

}  // namespace

uint32_t crc32(std::string_view bytes) { return check_of(kZip, bytes); }
uint32_t crc32c(std::string_view bytes) { return check_of(kCastagnoli, bytes); }

}  // namespace lockstep
