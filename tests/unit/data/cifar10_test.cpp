#include "lockstep/cifar10.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/div.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/from_blob.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <numeric>

#include "../expect_error.h"
#include "../temporary_folder.h"
#include "data/synthetic.h"

namespace lockstep {
namespace {

using test::bytes_of;
using test::expect_error;
using test::put_file;
using test::TemporaryFolder;
using Split = Cifar10::Split;

constexpr auto kRecord = static_cast<std::size_t>(Cifar10::kRecordBytes);

// As many real-looking records as a file of the real data holds: label i % 10, pixels that differ between records.
std::string real_file() {
  std::string bytes(kRecord * Cifar10::kRecordsPerFile, '\0');
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>((i * 7 + i / kRecord) & 0xff);
  for (std::size_t i = 0; i < bytes.size(); i += kRecord) bytes[i] = static_cast<char>(i / kRecord % 10);
  return bytes;
}

// A test split alone: enough for what concerns one file.
class RealFile : public ::testing::Test {
 protected:
  void write(const std::string& bytes) { put_file(path(), bytes); }
  std::string path() const { return folder / "test_batch.bin"; }
  Cifar10 open() const { return Cifar10::open(folder.path(), Split::test); }

  TemporaryFolder folder;
};

// A small synthetic set.
class SmallSet : public ::testing::Test {
 protected:
  SmallSet() { synthesize_cifar10(folder.path(), {.train_images = 50, .test_images = 12, .seed = 3}); }
  TemporaryFolder folder;
};

TEST_F(RealFile, GivesLabelsAndPixels) {
  const std::string bytes = real_file();
  write(bytes);
  const Cifar10 data = open();
  EXPECT_EQ(data.size(), 10'000);
  EXPECT_FALSE(data.synthetic());
  EXPECT_EQ(data.folder(), folder.path());
  for (const int64_t i : {0, 1, 4711, 9'999}) {
    EXPECT_EQ(data.label(i), i % 10);
    EXPECT_EQ(std::memcmp(data.pixels(i), bytes.data() + static_cast<std::size_t>(i) * kRecord + 1, kRecord - 1), 0);
  }
}

TEST_F(RealFile, ABatchHasTheBitsOfADivisionBy255) {
  write(real_file());
  const Cifar10 data = open();
  const std::vector<int64_t> indices = {9'999, 0, 77, 77};
  at::Tensor images, labels;
  data.batch(indices, images, labels);
  ASSERT_EQ(images.sizes(), (std::vector<int64_t>{4, 3, 32, 32}));
  ASSERT_EQ(labels.sizes(), (std::vector<int64_t>{4}));
  for (int64_t row = 0; row < 4; ++row) {
    const int64_t index = indices[static_cast<std::size_t>(row)];
    const at::Tensor bytes = at::from_blob(const_cast<uint8_t*>(data.pixels(index)), {3, 32, 32}, at::kByte);
    EXPECT_TRUE(at::equal(images[row], at::div(bytes.to(at::kFloat), 255)));  // what torchvision's ToTensor computes
    EXPECT_EQ(labels[row].item<int64_t>(), index % 10);
  }
}

TEST_F(RealFile, ABatchFillsTensorsThatFitAndReplacesOthers) {
  write(real_file());
  const Cifar10 data = open();
  at::Tensor images = at::empty({2, 3, 32, 32}), labels = at::empty({2}, at::kLong);
  const void* place = images.data_ptr();
  const void* label_place = labels.data_ptr();
  data.batch(std::vector<int64_t>{1, 2}, images, labels);
  EXPECT_EQ(images.data_ptr(), place);
  EXPECT_EQ(labels.data_ptr(), label_place);
  data.batch(std::vector<int64_t>{1, 2, 3}, images, labels);
  EXPECT_EQ(images.size(0), 3);
  images = at::empty({3, 3, 32, 32}, at::kDouble);
  data.batch(std::vector<int64_t>{1, 2, 3}, images, labels);
  EXPECT_EQ(images.scalar_type(), at::kFloat);
  data.batch({}, images, labels);
  EXPECT_EQ(images.size(0), 0);
}

TEST_F(RealFile, RefusesAnIndexOutsideTheSet) {
  write(real_file());
  const Cifar10 data = open();
  at::Tensor images, labels;
  EXPECT_THROW(data.label(-1), Error);
  EXPECT_THROW(data.pixels(10'000), Error);
  EXPECT_THROW(data.batch(std::vector<int64_t>{0, 10'000}, images, labels), Error);
}

TEST_F(RealFile, SaysThatItIsMissing) {
  expect_error(ExitCode::missing, {path()}, [&] { open(); });
}

TEST_F(RealFile, SaysThatItIsEmpty) {
  write("");
  expect_error(ExitCode::damaged, {path(), "empty", "30,730,000"}, [&] { open(); });
}

TEST_F(RealFile, SaysThatItIsTruncated) {
  const std::string bytes = real_file();
  for (const std::size_t size : {std::size_t{1}, kRecord - 1, kRecord, bytes.size() - kRecord, bytes.size() - 1}) {
    write(bytes.substr(0, size));
    expect_error(ExitCode::damaged, {path(), "truncated", "30,730,000"}, [&] { open(); });
  }
  write(bytes.substr(0, 1234567));
  expect_error(ExitCode::damaged, {"1,234,567"}, [&] { open(); });
}

TEST_F(RealFile, SaysThatItIsTooLarge) {
  const std::string bytes = real_file();
  write(bytes + "x");
  expect_error(ExitCode::damaged, {path(), "too large", "30,730,001", "30,730,000"}, [&] { open(); });
  write(bytes + bytes.substr(0, kRecord));
  expect_error(ExitCode::damaged, {"too large"}, [&] { open(); });
}

TEST_F(RealFile, SaysWhichLabelIsNoClass) {
  for (const std::size_t record : {0, 5'000, 9'999}) {
    std::string bytes = real_file();
    bytes[record * kRecord] = static_cast<char>(record == 0 ? 10 : 255);
    write(bytes);
    expect_error(ExitCode::damaged, {path(), "label", record == 0 ? "10" : "255", "0 to 9"}, [&] { open(); });
  }
}

TEST_F(RealFile, SaysThatItIsNoFile) {
  std::filesystem::create_directory(path());
  expect_error(ExitCode::io, {path()}, [&] { open(); });
}

TEST_F(RealFile, SaysThatItCannotBeRead) {
  write(real_file());
  std::filesystem::permissions(path(), std::filesystem::perms::none);
  const bool root = ::geteuid() == 0;  // who may read everything
  if (root) {
    ASSERT_EQ(::seteuid(65534), 0);
  }
  expect_error(ExitCode::io, {path(), "Permission denied"}, [&] { open(); });
  if (root) {
    ASSERT_EQ(::seteuid(0), 0);
  }
}

TEST_F(SmallSet, HoldsWhatWasAskedAndSaysThatItIsSynthetic) {
  const Cifar10 train = Cifar10::open(folder.path(), Split::train);
  const Cifar10 test = Cifar10::open(folder.path(), Split::test);
  EXPECT_EQ(train.size(), 50);
  EXPECT_EQ(test.size(), 12);
  EXPECT_TRUE(train.synthetic());
  EXPECT_TRUE(test.synthetic());
}

TEST_F(SmallSet, AnIndexRunsThroughTheFilesInOrder) {
  const Cifar10 train = Cifar10::open(folder.path(), Split::train);
  for (int64_t i = 0; i < 50; ++i) {
    const std::string file = bytes_of(folder / ("data_batch_" + std::to_string(i / 10 + 1) + ".bin"));
    EXPECT_EQ(std::memcmp(train.pixels(i) - 1, file.data() + static_cast<std::size_t>(i % 10) * kRecord, kRecord), 0)
        << i;
  }
}

TEST_F(SmallSet, SaysThatAFileIsTruncatedOrTooLarge) {
  const std::string path = folder / "data_batch_3.bin";
  const std::string bytes = bytes_of(path);
  put_file(path, bytes.substr(0, 9 * kRecord));
  expect_error(ExitCode::damaged, {path, "truncated", "27,657", "30,730"},
               [&] { Cifar10::open(folder.path(), Split::train); });
  put_file(path, bytes + "\1");
  expect_error(ExitCode::damaged, {path, "too large", "30,731"}, [&] { Cifar10::open(folder.path(), Split::train); });
}

TEST_F(SmallSet, SaysThatASignatureCountsNonsense) {
  const std::string path = folder / "test_batch.bin";
  std::string bytes = bytes_of(path);
  for (std::size_t i = 0; i < 8; ++i) bytes[1 + kSyntheticSignature.size() + i] = '\xff';
  put_file(path, bytes);
  expect_error(ExitCode::damaged, {path, "truncated"}, [&] { Cifar10::open(folder.path(), Split::test); });
}

TEST_F(SmallSet, RefusesTrainingFilesOfDifferentSizes) {
  TemporaryFolder other;
  synthesize_cifar10(other.path(), {.train_images = 25, .test_images = 1});
  std::filesystem::copy_file(other / "data_batch_4.bin", folder / "data_batch_4.bin",
                             std::filesystem::copy_options::overwrite_existing);
  expect_error(ExitCode::damaged, {"data_batch_4.bin", "5 records", "expected 10"},
               [&] { Cifar10::open(folder.path(), Split::train); });
}

TEST_F(SmallSet, RefusesAMixtureOfRealAndSyntheticFiles) {
  put_file(folder / "data_batch_2.bin", real_file());
  expect_error(ExitCode::damaged, {"data_batch_2.bin", "do not belong together"},
               [&] { Cifar10::open(folder.path(), Split::train); });
}

TEST_F(SmallSet, FindsTheFolderItselfOrTheOneOfTheArchive) {
  EXPECT_EQ(Cifar10::find(folder.path()), folder.path());
  TemporaryFolder parent;
  expect_error(ExitCode::missing, {parent.path(), "cifar-10-batches-bin"}, [&] { Cifar10::find(parent.path()); });
  std::filesystem::rename(folder.path(), parent / "cifar-10-batches-bin");
  EXPECT_EQ(Cifar10::find(parent.path()), parent / "cifar-10-batches-bin");
  expect_error(ExitCode::missing, {"/no/such/folder"}, [&] { Cifar10::find("/no/such/folder"); });
}

TEST(Cifar10Find, SaysWhichOtherFormOfTheDataIsThere) {
  const auto expect = [](const std::string& entry, bool folder_entry, const std::string& what,
                         const std::string& hint) {
    TemporaryFolder folder;
    folder_entry ? static_cast<void>(std::filesystem::create_directory(folder / entry)) : put_file(folder / entry, "x");
    try {
      Cifar10::find(folder.path());
      ADD_FAILURE() << entry;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::missing);
      EXPECT_THAT(error.what(), testing::HasSubstr(what)) << entry;
      EXPECT_THAT(error.what(), testing::HasSubstr(entry));
      EXPECT_THAT(error.hint(), testing::HasSubstr(hint)) << entry;
    }
  };
  expect("cifar-10-binary.tar.gz", false, "not unpacked", "tar -xzf");
  expect("cifar-10-python.tar.gz", false, "Python version", "lockstep data fetch");
  expect("cifar-10-batches-py", true, "Python version", "lockstep data fetch");
  expect("data_batch_1", false, "Python version", "lockstep data fetch");
  expect("cifar-100-binary", true, "CIFAR-100", "lockstep data fetch");
  TemporaryFolder folder;
  put_file(folder / "mine.tar.gz", "x");
  expect_error(ExitCode::missing, {"mine.tar.gz", "not unpacked"}, [&] { Cifar10::find(folder / "mine.tar.gz"); });
}

TEST(Cifar10Find, SaysThatAFolderCannotBeReadInsteadOfThatItIsEmpty) {
  const std::string name(300, 'x');
  expect_error(ExitCode::io, {name, "too long"}, [&] { Cifar10::find("/tmp/" + name); });
}

}  // namespace
}  // namespace lockstep
