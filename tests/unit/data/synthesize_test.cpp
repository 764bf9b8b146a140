#include <gtest/gtest.h>

#include <array>
#include <cstring>

#include "../expect_error.h"
#include "../temporary_folder.h"
#include "data/synthetic.h"
#include "lockstep/cifar10.h"
#include "store/crc32.h"

namespace lockstep {
namespace {

using test::bytes_of;
using test::expect_error;
using test::TemporaryFolder;
using Split = Cifar10::Split;

TEST(Synthesize, TheSameSeedGivesTheSameBytesEverywhere) {
  TemporaryFolder folder;
  synthesize_cifar10(folder.path(), {.train_images = 10, .test_images = 3, .seed = 7});
  EXPECT_EQ(crc32(bytes_of(folder / "data_batch_1.bin")), 67582273u);
  EXPECT_EQ(crc32(bytes_of(folder / "data_batch_5.bin")), 1555508350u);
  EXPECT_EQ(crc32(bytes_of(folder / "test_batch.bin")), 2179499137u);
}

TEST(Synthesize, OtherSeedsSplitsAndImagesDiffer) {
  TemporaryFolder one, two;
  synthesize_cifar10(one.path(), {.train_images = 20, .test_images = 4, .seed = 1});
  synthesize_cifar10(two.path(), {.train_images = 20, .test_images = 4, .seed = 2});
  EXPECT_NE(bytes_of(one / "test_batch.bin"), bytes_of(two / "test_batch.bin"));
  EXPECT_NE(bytes_of(one / "test_batch.bin"), bytes_of(one / "data_batch_1.bin"));
  EXPECT_NE(bytes_of(one / "data_batch_1.bin"), bytes_of(one / "data_batch_2.bin"));
  const Cifar10 test = Cifar10::open(one.path(), Split::test);
  EXPECT_NE(std::memcmp(test.pixels(1), test.pixels(2), Cifar10::kPixels), 0);
}

TEST(Synthesize, OnlyTheFirstImageOfAFileCarriesTheSignature) {
  TemporaryFolder folder;
  synthesize_cifar10(folder.path(), {.train_images = 10, .test_images = 3});
  const Cifar10 train = Cifar10::open(folder.path(), Split::train);
  for (int64_t i = 0; i < 10; ++i) {
    const bool carries = std::memcmp(train.pixels(i), kSyntheticSignature.data(), kSyntheticSignature.size()) == 0;
    EXPECT_EQ(carries, i % 2 == 0) << i;
  }
}

// The nearest of the classes' mean images, learned from the training images, is the label of nearly every test image:
// so a network finds the classes too.
TEST(Synthesize, ClassesCanBeToldApart) {
  TemporaryFolder folder;
  synthesize_cifar10(folder.path(), {.train_images = 1000, .test_images = 200});
  const Cifar10 train = Cifar10::open(folder.path(), Split::train);
  const Cifar10 test = Cifar10::open(folder.path(), Split::test);
  std::array<std::array<double, Cifar10::kPixels>, 10> means{};
  std::array<int, 10> counts{};
  for (int64_t i = 0; i < train.size(); ++i) {
    ++counts[train.label(i)];
    for (std::size_t p = 0; p < Cifar10::kPixels; ++p) means[train.label(i)][p] += train.pixels(i)[p];
  }
  for (std::size_t label = 0; label < 10; ++label) {
    EXPECT_GT(counts[label], 60);
    for (double& mean : means[label]) mean /= counts[label];
  }
  int right = 0;
  for (int64_t i = 0; i < test.size(); ++i) {
    std::size_t nearest = 0;
    double smallest = 1e300;
    for (std::size_t label = 0; label < 10; ++label) {
      double distance = 0;
      for (std::size_t p = 0; p < Cifar10::kPixels; ++p) {
        distance += (test.pixels(i)[p] - means[label][p]) * (test.pixels(i)[p] - means[label][p]);
      }
      if (distance < smallest) smallest = distance, nearest = label;
    }
    right += nearest == test.label(i);
  }
  EXPECT_GT(right, 180);
}

TEST(Synthesize, RefusesBadCounts) {
  TemporaryFolder folder;
  for (const int64_t train : {-5, 0, 3, 12, 500'005}) {
    expect_error(ExitCode::usage, {std::to_string(train), "training"},
                 [&] { synthesize_cifar10(folder.path(), {.train_images = train, .test_images = 1}); });
  }
  for (const int64_t test : {-1, 0, 500'001}) {
    expect_error(ExitCode::usage, {std::to_string(test), "test"},
                 [&] { synthesize_cifar10(folder.path(), {.train_images = 5, .test_images = test}); });
  }
  EXPECT_EQ(folder.entries(), 0u);
}

TEST(Synthesize, RefusesAFolderThatHoldsData) {
  TemporaryFolder folder;
  test::put_file(folder / "test_batch.bin", "precious");
  expect_error(ExitCode::usage, {folder.path(), "test_batch.bin"}, [&] { synthesize_cifar10(folder.path(), {}); });
  EXPECT_EQ(bytes_of(folder / "test_batch.bin"), "precious");
}

TEST(Synthesize, SaysThatTheFolderCannotBeMade) {
  TemporaryFolder folder;
  test::put_file(folder / "file", "");
  expect_error(ExitCode::io, {folder / "file"},
               [&] { synthesize_cifar10(folder / "file/below", {.train_images = 5, .test_images = 1}); });
}

}  // namespace
}  // namespace lockstep
