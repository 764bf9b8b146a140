#include "store/checkpoint_folder.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../expect_error.h"
#include "../temporary_folder.h"
#include "lockstep/error.h"
#include "store/files.h"

namespace lockstep {
namespace {

using test::bytes_of;
using test::expect_error;
using test::put_file;
using test::TemporaryFolder;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

std::string bytes_at(int64_t step) {
  return checkpoint_bytes({{"model.w", at::full({3}, static_cast<double>(step))}}, std::to_string(step));
}

void save(const TemporaryFolder& folder, int64_t step) { put_file(folder / checkpoint_name(step), bytes_at(step)); }

void flip_last_bit(const std::string& path) {
  std::string bytes = bytes_of(path);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  put_file(path, bytes);
}

std::vector<std::string> entries(const TemporaryFolder& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) names.push_back(entry.path().filename());
  return names;
}

TEST(CheckpointName, IsTheStepInSevenDigitsOrMore) {
  EXPECT_EQ(checkpoint_name(0), "step-0000000.safetensors");
  EXPECT_EQ(checkpoint_name(782), "step-0000782.safetensors");
  EXPECT_EQ(checkpoint_name(123'456'789), "step-123456789.safetensors");
  for (const int64_t step : {int64_t{0}, int64_t{9'999'999}, int64_t{10'000'000}, INT64_MAX}) {
    EXPECT_EQ(step_of(checkpoint_name(step)), step);
  }
  for (const char* name :
       {"", "latest", "step-.safetensors", "step-1.safetensors", "step-00000001.safetensors",
        "step--000001.safetensors", "step-+000001.safetensors", "step-0000001", "step-0000001.safetensors.tmp-1-0",
        "step-9223372036854775808.safetensors", "xstep-0000001.safetensors", "step-000001x.safetensors"}) {
    EXPECT_EQ(step_of(name), std::nullopt) << name;
  }
}

TEST(CheckpointFiles, AreTheNewestStepFirstAndNothingElse) {
  TemporaryFolder folder;
  EXPECT_THAT(checkpoint_files(folder / "none"), IsEmpty());
  EXPECT_THAT(checkpoint_files(folder.path()), IsEmpty());
  for (const std::string name :
       {"latest", "step-0000003.safetensors", "step-9000000.safetensors", "step-12345678.safetensors",
        "step-0000020.safetensors", "step-0000021.safetensors.tmp-1-0", "best.safetensors"})
    put_file(folder / name, "");
  EXPECT_THAT(checkpoint_files(folder.path()), ElementsAre("step-12345678.safetensors", "step-9000000.safetensors",
                                                           "step-0000020.safetensors", "step-0000003.safetensors"));
  expect_error(ExitCode::io, {folder / "latest"}, [&] { checkpoint_files(folder / "latest"); });
}

TEST(NewestGood, IsNothingWhereThereIsNoCheckpoint) {
  TemporaryFolder folder;
  EXPECT_FALSE(newest_good(folder / "none"));
  put_file(folder / "latest", "step-0000008.safetensors\n");
  EXPECT_FALSE(newest_good(folder.path()));
}

TEST(NewestGood, IsTheNewestByStepWhateverLatestSays) {
  TemporaryFolder folder;
  save(folder, 8);
  save(folder, 16);
  save(folder, 9);
  const auto expect_16 = [&] {
    const auto found = newest_good(folder.path());
    ASSERT_TRUE(found);
    EXPECT_EQ(found->path, folder / "step-0000016.safetensors");
    EXPECT_EQ(found->checkpoint.state, "16");
    EXPECT_EQ(found->checkpoint.tensors.at(0).second[2].item<float>(), 16);
    EXPECT_THAT(found->passed_over, IsEmpty());
  };
  expect_16();  // no `latest` at all
  for (const std::string latest :
       {"step-0000008.safetensors\n", "step-00000", "", "step-0000099.safetensors\n", "\xff\n"}) {
    put_file(folder / "latest", latest);
    expect_16();
  }
}

TEST(NewestGood, PassesOverWhatDoesNotVerifyAndSaysWhy) {
  TemporaryFolder folder;
  for (const int64_t step : {8, 16, 24, 32}) save(folder, step);
  name_latest(folder.path(), 32);
  flip_last_bit(folder / "step-0000016.safetensors");
  put_file(folder / "step-0000024.safetensors", bytes_at(24).substr(0, bytes_at(24).size() - 5));
  put_file(folder / "step-0000032.safetensors", "");
  std::filesystem::create_directory(folder / "step-0000040.safetensors");
  std::filesystem::create_symlink("nowhere", folder / "step-0000041.safetensors");
  put_file(folder / "step-0000042.safetensors", safetensors_bytes({}, {}));
  const auto found = newest_good(folder.path());
  ASSERT_TRUE(found);
  EXPECT_EQ(found->checkpoint.state, "8");
  EXPECT_THAT(found->passed_over,
              ElementsAre("step-0000042.safetensors: it has no lockstep.format",
                          AllOf(HasSubstr("step-0000041.safetensors: there is no file")),
                          AllOf(HasSubstr("step-0000040.safetensors: cannot read"), HasSubstr("Is a directory")),
                          "step-0000032.safetensors: it is too short for a safetensors file",
                          HasSubstr("step-0000024.safetensors: it ends "),
                          "step-0000016.safetensors: the tensor model.w does not match its checksum"));
}

TEST(NewestGood, SaysWhenNoneOfThoseThereVerifies) {
  TemporaryFolder folder;
  save(folder, 8);
  flip_last_bit(folder / "step-0000008.safetensors");
  put_file(folder / "step-0000016.safetensors", "torn");
  expect_error(
      ExitCode::damaged,
      {folder.path(), "step-0000016.safetensors: it is too short", "step-0000008.safetensors: the tensor model.w"},
      [&] { newest_good(folder.path()); });
}

TEST(NameLatest, WritesTheNameOfTheFile) {
  TemporaryFolder folder;
  name_latest(folder.path(), 8);
  name_latest(folder.path(), 782);
  EXPECT_EQ(bytes_of(folder / "latest"), "step-0000782.safetensors\n");
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(Prune, KeepsTheNewestAndThoseAskedFor) {
  TemporaryFolder folder;
  for (const int64_t step : {5, 10, 15, 20, 25, 10'000'000}) save(folder, step);
  put_file(folder / "latest", "x");
  put_file(folder / "step-0000003.safetensors.tmp-1-0", "x");
  prune(folder.path(), 2, {10, 25, 77});
  EXPECT_THAT(entries(folder),
              UnorderedElementsAre("step-10000000.safetensors", "step-0000025.safetensors", "step-0000010.safetensors",
                                   "latest", "step-0000003.safetensors.tmp-1-0"));
  prune(folder.path(), 9, {});
  EXPECT_EQ(folder.entries(), 5u);
  prune(folder.path(), 0, {});
  EXPECT_THAT(entries(folder), UnorderedElementsAre("latest", "step-0000003.safetensors.tmp-1-0"));
  EXPECT_NO_THROW(prune(folder / "none", 1, {}));
}

TEST(Prune, TriesAllAndSaysWhatItCouldNotDelete) {
  TemporaryFolder folder;
  for (const int64_t step : {1, 3, 4}) save(folder, step);
  std::filesystem::create_directory(folder / "step-0000002.safetensors");
  expect_error(ExitCode::io, {"cannot delete", folder / "step-0000002.safetensors"},
               [&] { prune(folder.path(), 1, {}); });
  EXPECT_THAT(entries(folder), UnorderedElementsAre("step-0000004.safetensors", "step-0000002.safetensors"));
}

TEST(RemoveLeftovers, RemovesWhatAKilledWriterLeftAndNothingElse) {
  TemporaryFolder folder;
  save(folder, 8);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    write_durably(folder / checkpoint_name(16), bytes_at(16), [](WriteStage) { ::_exit(0); });
    ::_exit(1);
  }
  int status = 1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  put_file(folder / "latest.tmp-77-3", "");
  put_file(folder / "notes.tmp-mine", "");
  ASSERT_EQ(folder.entries(), 4u);
  EXPECT_EQ(newest_good(folder.path())->checkpoint.state, "8");
  remove_leftovers(folder.path());
  EXPECT_THAT(entries(folder), UnorderedElementsAre("step-0000008.safetensors", "notes.tmp-mine"));
  EXPECT_NO_THROW(remove_leftovers(folder / "none"));
}

}  // namespace
}  // namespace lockstep
