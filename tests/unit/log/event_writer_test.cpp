#include "lockstep/event_writer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <bit>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <vector>

#include "../expect_error.h"
#include "../temporary_folder.h"

namespace lockstep {
namespace {

using test::bytes_of;
using test::expect_error;
using test::TemporaryFolder;

// --- a reader that shares nothing with the writer ---

// CRC-32C bit by bit, as its definition has it.
uint32_t slow_crc32c(const std::string& bytes) {
  uint32_t check = 0xffffffff;
  for (const char byte : bytes) {
    check ^= static_cast<uint8_t>(byte);
    for (int bit = 0; bit < 8; ++bit) check = (check & 1) != 0 ? check >> 1 ^ 0x82f63b78 : check >> 1;
  }
  return ~check;
}

template <typename T>
T at(const std::string& bytes, std::size_t place) {
  T value;
  if (place + sizeof(value) > bytes.size()) throw std::out_of_range("the record is torn");
  std::memcpy(&value, bytes.data() + place, sizeof(value));
  return value;
}

void expect_check(const std::string& bytes, uint32_t masked) {
  const uint32_t check = masked - 0xa282ead8;
  EXPECT_EQ(check >> 17 | check << 15, slow_crc32c(bytes));
}

std::vector<std::string> payloads(const std::string& file) {
  std::vector<std::string> all;
  for (std::size_t place = 0; place < file.size();) {
    const auto size = at<uint64_t>(file, place);
    expect_check(file.substr(place, 8), at<uint32_t>(file, place + 8));
    all.push_back(file.substr(place + 12, size));
    expect_check(all.back(), at<uint32_t>(file, place + 12 + size));
    place += 16 + size;
  }
  return all;
}

struct Field {
  uint64_t number = 0;
  uint64_t integer = 0;
  double real = 0;
  std::string bytes;
};

uint64_t varint(const std::string& message, std::size_t& place) {
  uint64_t value = 0;
  for (unsigned shift = 0;; shift += 7) {
    const auto byte = at<uint8_t>(message, place++);
    value |= uint64_t{byte} % 128 << shift;
    if (byte < 128) return value;
  }
}

std::vector<Field> fields(const std::string& message) {
  std::vector<Field> all;
  for (std::size_t place = 0; place < message.size();) {
    const uint64_t key = varint(message, place);
    Field field{.number = key / 8, .bytes = ""};
    switch (key % 8) {
      case 0:
        field.integer = varint(message, place);
        break;
      case 1:
        field.real = at<double>(message, place), place += 8;
        break;
      case 5:
        field.real = at<float>(message, place), place += 4;
        break;
      case 2: {
        const uint64_t size = varint(message, place);
        field.bytes = message.substr(place, size);
        EXPECT_EQ(field.bytes.size(), size);
        place += size;
        break;
      }
      default:
        ADD_FAILURE() << "wire type " << key % 8;
    }
    all.push_back(field);
  }
  return all;
}

struct Scalar {
  std::string tag;
  int64_t step;
  double value, wall_time;
};

std::vector<Scalar> scalars(const std::string& path) {
  const std::vector<std::string> events = payloads(bytes_of(path));
  const auto first = fields(events.at(0));
  EXPECT_EQ(first.at(1).number, 3u);
  EXPECT_EQ(first.at(1).bytes, "brain.Event:2");
  std::vector<Scalar> all;
  for (std::size_t i = 1; i < events.size(); ++i) {
    const auto event = fields(events[i]);
    EXPECT_EQ(event.at(0).number, 1u);
    EXPECT_EQ(event.at(1).number, 2u);
    EXPECT_EQ(event.at(2).number, 5u);
    const auto summary = fields(event.at(2).bytes);
    EXPECT_EQ(summary.size(), 1u);
    EXPECT_EQ(summary.at(0).number, 1u);
    const auto value = fields(summary.at(0).bytes);
    EXPECT_EQ(value.at(0).number, 1u);
    EXPECT_EQ(value.at(1).number, 2u);
    all.push_back({value.at(0).bytes, static_cast<int64_t>(event.at(1).integer), value.at(1).real, event.at(0).real});
  }
  return all;
}

TEST(EventWriter, WritesWhatAnIndependentReaderReads) {
  TemporaryFolder folder;
  EventWriter events(folder / "runs/ü");
  events.scalar("train_loss", 100, 2.25);
  events.scalar("train_loss", 1'000'000'000'000, -1e-3);
  events.scalar("test_loss", 0, 390.5);
  events.scalar(std::string(300, 't'), -1, 0);
  const auto read = scalars(events.path());
  ASSERT_EQ(read.size(), 4u);
  EXPECT_EQ(read[0].tag, "train_loss");
  EXPECT_EQ(read[0].step, 100);
  EXPECT_EQ(read[0].value, 2.25);
  EXPECT_EQ(read[1].step, 1'000'000'000'000);
  EXPECT_EQ(read[1].value, -1e-3f);
  EXPECT_EQ(read[2].tag, "test_loss");
  EXPECT_EQ(read[2].step, 0);
  EXPECT_EQ(read[3].tag.size(), 300u);
  EXPECT_EQ(read[3].step, -1);
  const double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  EXPECT_NEAR(read[0].wall_time, now, 60);
}

TEST(EventWriter, KeepsWhatIsNotFinite) {
  TemporaryFolder folder;
  EventWriter events(folder.path());
  events.scalar("x", 1, std::nan(""));
  events.scalar("x", 2, std::numeric_limits<double>::infinity());
  events.scalar("x", 3, 1e300);
  const auto read = scalars(events.path());
  EXPECT_TRUE(std::isnan(read.at(0).value));
  EXPECT_TRUE(std::isinf(read.at(1).value));
  EXPECT_TRUE(std::isinf(read.at(2).value));  // a float holds no more
}

// TensorBoard reads nothing of a file that holds one such tag.
TEST(EventWriter, RefusesATagThatIsNotUtf8AndWritesNothingOfIt) {
  TemporaryFolder folder;
  EventWriter events(folder.path());
  events.scalar("café", 1, 1);
  expect_error(ExitCode::internal, {"caf\\xe9", events.path(), "UTF-8"}, [&] { events.scalar("caf\xe9", 2, 1); });
  events.scalar("after", 3, 1);
  ASSERT_EQ(scalars(events.path()).size(), 2u);
  EXPECT_EQ(scalars(events.path())[1].tag, "after");
}

TEST(EventWriter, AnEventIsInTheFileAtOnce) {
  TemporaryFolder folder;
  EventWriter events(folder.path());
  EXPECT_EQ(scalars(events.path()).size(), 0u);
  events.scalar("x", 1, 1);
  EXPECT_EQ(scalars(events.path()).size(), 1u);
}

TEST(EventWriter, EachWriterHasAFileOfItsOwnThatTensorBoardFinds) {
  TemporaryFolder folder;
  EventWriter one(folder.path()), two(folder.path());
  EXPECT_NE(one.path(), two.path());
  const std::string name = std::filesystem::path(one.path()).filename().string();
  EXPECT_EQ(name.rfind("events.out.tfevents.", 0), 0u);
  EXPECT_EQ(name.substr(20, 11).find_first_not_of("0123456789"), 10u);
  EXPECT_NE(name.find("." + std::to_string(::getpid()) + "."), std::string::npos);
}

TEST(EventWriter, SaysThatTheFolderCannotBeMade) {
  TemporaryFolder folder;
  test::put_file(folder / "file", "");
  expect_error(ExitCode::io, {folder / "file"}, [&] { EventWriter(folder / "file"); });
}

}  // namespace
}  // namespace lockstep
