#include "train/run_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "../temporary_folder.h"
#include "lockstep/cifar10.h"

namespace lockstep {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

DataMarks marks_of(const std::string& folder) {
  return data_marks(Cifar10::open(folder, Cifar10::Split::train), Cifar10::open(folder, Cifar10::Split::test));
}

// Flips the lowest bit of a byte.
void change(const std::string& path, size_t at) {
  std::string bytes = test::bytes_of(path);
  bytes[at] = static_cast<char>(bytes[at] ^ 1);
  test::put_file(path, bytes);
}

TEST(RunState, OnePixelAnywhereIsOtherData) {
  const test::TemporaryFolder folder;
  synthesize_cifar10(folder.path(), {.train_images = 500, .test_images = 80});
  const DataMarks before = marks_of(folder.path());
  RunState state;
  state.data = before.train;
  state.test_data = before.test;
  state.settings = setting_values(Settings());
  EXPECT_THAT(refused_changes(state, Settings(), before), IsEmpty());
  const size_t image = Cifar10::kRecordBytes;

  change(folder / "data_batch_4.bin", 3 * image + 17);  // not one of the sample
  const DataMarks train = marks_of(folder.path());
  EXPECT_EQ(train.train_sample, before.train_sample);
  EXPECT_THAT(refused_changes(state, Settings(), train), ElementsAre(HasSubstr("the training images: 500 images")));

  change(folder / "data_batch_4.bin", 3 * image + 17);
  EXPECT_EQ(marks_of(folder.path()).train, before.train);
  change(folder / "test_batch.bin", 80 * image - 1);
  EXPECT_THAT(refused_changes(state, Settings(), marks_of(folder.path())),
              ElementsAre(HasSubstr("the test images: 80 images")));
}

TEST(RunState, CheckpointsThatKnowASampleOfTheImagesGoOn) {
  const test::TemporaryFolder folder;
  synthesize_cifar10(folder.path(), {.train_images = 50, .test_images = 8});
  const DataMarks marks = marks_of(folder.path());
  RunState older;
  older.data = marks.train_sample;
  older.settings = setting_values(Settings());
  EXPECT_THAT(refused_changes(older, Settings(), marks), IsEmpty());
  older.data.back() = older.data.back() == '0' ? '1' : '0';
  EXPECT_THAT(refused_changes(older, Settings(), marks), ElementsAre(HasSubstr("the training images")));
}

}  // namespace
}  // namespace lockstep
