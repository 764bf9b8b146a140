#include "store/crc32.h"

#include <gtest/gtest.h>

#include <string>

namespace lockstep {
namespace {

std::string counting(int from, int step) {
  std::string bytes;
  for (int i = 0; i < 32; ++i) bytes += static_cast<char>(from + i * step);
  return bytes;
}

// RFC 3720, appendix B.4, and the check value of every catalogue of CRCs.
TEST(Crc32c, GivesThePublishedVectors) {
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(crc32c(counting(0, 1)), 0x46dd794eu);
  EXPECT_EQ(crc32c(counting(31, -1)), 0x113fdb5cu);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(""), 0u);
}

TEST(Crc32, GivesThePublishedVectors) {
  EXPECT_EQ(crc32("123456789"), 0xcbf43926u);
  EXPECT_EQ(crc32("The quick brown fox jumps over the lazy dog"), 0x414fa339u);
  EXPECT_EQ(crc32(""), 0u);
}

TEST(Crc32, EverySizeAndEveryBitCounts) {
  std::string bytes = counting(3, 5);
  for (std::size_t size = 1; size < bytes.size(); ++size) {
    const uint32_t check = crc32c({bytes.data(), size});
    EXPECT_NE(check, crc32c({bytes.data(), size + 1}));
    bytes[size - 1] = static_cast<char>(bytes[size - 1] ^ 0x40);
    EXPECT_NE(check, crc32c({bytes.data(), size}));
  }
}

}  // namespace
}  // namespace lockstep
