#include "log/json_lines.h"

#include <gtest/gtest.h>

#include <clocale>
#include <cmath>
#include <limits>
#include <locale>
#include <nlohmann/json.hpp>

#include "../expect_error.h"
#include "../temporary_folder.h"

namespace lockstep {
namespace {

using test::bytes_of;
using test::expect_error;
using test::put_file;
using test::TemporaryFolder;

std::string line_of(const nlohmann::ordered_json& value) {
  TemporaryFolder folder;
  JsonLines(folder / "metrics.jsonl").write(value);
  return bytes_of(folder / "metrics.jsonl");
}

TEST(JsonLines, KeepsTheOrderOfKeys) {
  EXPECT_EQ(line_of({{"event", "train"}, {"step", 100}, {"epoch", 0}, {"a", true}}),
            "{\"event\":\"train\",\"step\":100,\"epoch\":0,\"a\":true}\n");
}

TEST(JsonLines, NumbersReadBackAsTheSameDoubles) {
  for (const double number : {0.1, 1.0 / 3, 2.3021234512345678, 1e-300, 123456789.125, 5e-324}) {
    EXPECT_EQ(nlohmann::json::parse(line_of({{"x", number}}))["x"].get<double>(), number);
  }
  EXPECT_EQ(line_of({{"x", 0.1}}), "{\"x\":0.1}\n");
}

// What a locale such as German has: 1.234,5.
struct DecimalComma : std::numpunct<char> {
  char do_decimal_point() const override { return ','; }
  char do_thousands_sep() const override { return '.'; }
  std::string do_grouping() const override { return "\3"; }
};

TEST(JsonLines, NumbersDoNotDependOnTheLocale) {
  std::setlocale(LC_ALL, "de_DE.UTF-8");  // where the machine has it
  const std::locale before = std::locale::global(std::locale(std::locale::classic(), new DecimalComma));
  const std::string line = line_of({{"x", 1234.5}, {"n", 1234567}});
  std::locale::global(before);
  std::setlocale(LC_ALL, "C");
  EXPECT_EQ(line, "{\"x\":1234.5,\"n\":1234567}\n");
}

TEST(JsonLines, WhatJsonCannotSayBecomesNull) {
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(line_of({{"a", std::nan("")}, {"b", infinity}, {"c", -infinity}}), "{\"a\":null,\"b\":null,\"c\":null}\n");
}

TEST(JsonLines, OneLineWhateverTheText) {
  EXPECT_EQ(line_of({{"path", "a\nb\té"}}), "{\"path\":\"a\\nb\\té\"}\n");
  EXPECT_EQ(line_of({{"bad", "\xff"}}), "{\"bad\":\"\xef\xbf\xbd\"}\n");
}

TEST(JsonLines, GoesOnAfterATornLine) {
  TemporaryFolder folder;
  put_file(folder / "metrics.jsonl", "{\"step\":1}\n{\"ste");
  JsonLines lines(folder / "metrics.jsonl");
  lines.write({{"step", 2}});
  lines.write({{"step", 3}});
  EXPECT_EQ(bytes_of(lines.path()), "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n");
}

TEST(JsonLines, SaysThatTheDiskIsFull) {
  JsonLines lines("/dev/full");
  expect_error(ExitCode::io, {"/dev/full", "No space left on device"}, [&] { lines.write({{"step", 1}}); });
}

}  // namespace
}  // namespace lockstep
