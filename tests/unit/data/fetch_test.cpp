#include "data/fetch.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "../expect_error.h"
#include "../temporary_folder.h"
#include "data/process.h"
#include "lockstep/cifar10.h"

namespace lockstep {
namespace {

using test::bytes_of;
using test::expect_error;
using test::put_file;
using test::TemporaryFolder;

// An archive as the official one, of a small synthetic set; curl reads it from a file.
class Fetch : public ::testing::Test {
 protected:
  void SetUp() override {
    if (run_process({"curl", "--version"}, "/dev/null").not_found) GTEST_SKIP() << "curl is not installed";
    synthesize_cifar10(folder / "cifar-10-batches-bin", {.train_images = 5, .test_images = 1});
    pack();
  }
  void pack() {
    ASSERT_EQ(run_process({"tar", "-C", folder.path(), "-czf", archive(), "cifar-10-batches-bin"}).exit_status, 0);
  }
  // Blanks and others, as an URL has them.
  std::string url(const std::string& path) const {
    std::string text = "file://";
    for (const char c : path) {
      text += std::isalnum(static_cast<unsigned char>(c)) || c == '/' || c == '.' || c == '-'
                  ? std::string(1, c)
                  : fmt::format("%{:02x}", static_cast<unsigned char>(c));
    }
    return text;
  }
  std::string archive() const { return folder / "archive.tar.gz"; }
  std::string out() const { return folder / "dé ta"; }
  FetchOptions options() const {
    return {.out = out(), .url = url(archive()), .md5 = run_process({"md5sum"}, archive()).output.substr(0, 32)};
  }

  TemporaryFolder folder;
};

TEST_F(Fetch, PutsTheSetInPlaceAndNothingElse) {
  fetch_cifar10(options());
  EXPECT_EQ(Cifar10::open(Cifar10::find(out()), Cifar10::Split::train).size(), 5);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(out()), {}), 1);
  EXPECT_EQ(bytes_of(out() + "/cifar-10-batches-bin/test_batch.bin"),
            bytes_of(folder / "cifar-10-batches-bin/test_batch.bin"));
}

TEST_F(Fetch, TakesAnMd5InCapitals) {
  FetchOptions capitals = options();
  for (char& c : capitals.md5) c = static_cast<char>(std::toupper(c));
  EXPECT_NO_THROW(fetch_cifar10(capitals));
}

TEST_F(Fetch, AWrongDigestLeavesNothing) {
  FetchOptions official = options();
  official.md5 = kCifar10Md5;
  expect_error(ExitCode::damaged, {options().md5, kCifar10Md5}, [&] { fetch_cifar10(official); });
  EXPECT_FALSE(std::filesystem::exists(out()));
}

TEST_F(Fetch, WhatCannotBeHadLeavesNothingAndSaysWhatToDo) {
  FetchOptions elsewhere = options();
  elsewhere.url = url(folder / "no archive");
  try {
    fetch_cifar10(elsewhere);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::missing);
    EXPECT_THAT(error.hint(), ::testing::HasSubstr("lockstep data synthesize --out DIR"));
    EXPECT_THAT(error.hint(), ::testing::HasSubstr(out()));
  }
  EXPECT_FALSE(std::filesystem::exists(out()));
}

TEST_F(Fetch, AnArchiveOfAnIncompleteSetLeavesNothing) {
  std::filesystem::remove(folder / "cifar-10-batches-bin/data_batch_4.bin");
  pack();
  expect_error(ExitCode::missing, {"data_batch_4.bin"}, [&] { fetch_cifar10(options()); });
  EXPECT_FALSE(std::filesystem::exists(out()));
}

TEST_F(Fetch, WhatIsNoArchiveLeavesNothing) {
  put_file(archive(), "no archive");
  expect_error(ExitCode::io, {"unpack", "tar"}, [&] { fetch_cifar10(options()); });
  EXPECT_FALSE(std::filesystem::exists(out()));
}

TEST_F(Fetch, TouchesNothingThatIsInTheWay) {
  const std::string there = out() + "/cifar-10-batches-bin";
  synthesize_cifar10(there, {.train_images = 10, .test_images = 2});
  const std::string before = bytes_of(there + "/test_batch.bin");
  expect_error(ExitCode::usage, {there, "synthetic"}, [&] { fetch_cifar10(options()); });
  std::filesystem::remove(there + "/data_batch_1.bin");
  expect_error(ExitCode::usage, {there, "data_batch_1.bin"}, [&] { fetch_cifar10(options()); });
  EXPECT_EQ(bytes_of(there + "/test_batch.bin"), before);
}

TEST(RunProcess, SaysHowAProgramEnded) {
  EXPECT_EQ(run_process({"true"}).exit_status, 0);
  EXPECT_EQ(run_process({"sh", "-c", "exit 7"}).describe(), "sh: exit code 7");
  EXPECT_EQ(run_process({"sh", "-c", "kill -9 $$"}).describe(), "sh: killed by signal 9");
  EXPECT_TRUE(run_process({"no-such-program"}).not_found);
}

TEST(RunProcess, GivesInputAndTakesOutputWithoutAShell) {
  TemporaryFolder folder;
  const std::string large(200'000, 'x');
  put_file(folder / "input", large);
  EXPECT_EQ(run_process({"cat"}, folder / "input").output, large);
  EXPECT_EQ(run_process({"printf", "%s|", "a b", "$HOME", "'"}, "/dev/null").output, "a b|$HOME|'|");
}

}  // namespace
}  // namespace lockstep
