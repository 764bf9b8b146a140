#include "store/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace lockstep {
namespace {

using namespace std::string_literals;

TEST(Utf8, TakesWhatPythonDecodes) {
  for (const std::string& text :
       {""s, "a\0b"s, "é"s, "日本"s, "😀"s, "\xed\x9f\xbf"s, "\xee\x80\x80"s, "\xf4\x8f\xbf\xbf"s}) {
    EXPECT_TRUE(is_utf8(text)) << escaped(text);
  }
}

TEST(Utf8, RefusesWhatPythonRefuses) {
  for (const std::string& text :
       {"\xff"s, "\x80"s, "caf\xe9"s, "\xc3"s, "\xe6\x97"s, "\xf0\x9f\x98"s, "\xc0\xaf"s, "\xc1\xbf"s, "\xe0\x9f\xbf"s,
        "\xed\xa0\x80"s, "\xf0\x8f\xbf\xbf"s, "\xf4\x90\x80\x80"s, "\xf5\x80\x80\x80"s, "\xc3("s, "\xe6(\xa5"s}) {
    EXPECT_FALSE(is_utf8(text)) << escaped(text);
  }
}

TEST(Utf8, EscapedTextIsShortAndPrintable) {
  EXPECT_EQ(escaped("caf\xe9\n"), "caf\\xe9\\x0a");
  EXPECT_EQ(escaped(std::string(200, 'x')), std::string(100, 'x') + "…");
}

}  // namespace
}  // namespace lockstep
