#include "train/run_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "../expect_error.h"
#include "../temporary_folder.h"
#include "lockstep/settings.h"

namespace lockstep {
namespace {

using test::bytes_of;
using test::expect_error;
using test::put_file;
using test::TemporaryFolder;
using testing::ElementsAre;

TEST(RunFiles, AFolderWithFilesOfOthersHoldsNoRun) {
  const TemporaryFolder folder;
  for (const char* name : {"resnet_18.pth", "events.out.tfevents.1.host.2.0", "sjnet_99.pth"})
    put_file(folder / name, "x");
  RunFiles files(folder.path());
  EXPECT_FALSE(files.any());
  files.add_those_of(Settings(), 2);  // none is in the way
  EXPECT_FALSE(files.has("resnet_18.pth"));
  EXPECT_TRUE(files.has("flight-rank-1.json"));
  EXPECT_FALSE(RunFiles(folder / "none").any());
}

TEST(RunFiles, TheListIsReadAgainWithWhatWasClaimed) {
  const TemporaryFolder folder;
  RunFiles files(folder.path());
  files.add_those_of(Settings(), 1);
  files.write();
  files.claim("sjnet_0.pth");
  files.claim("sjnet_0.pth");
  put_file(folder / "sjnet_0.pth", "weights");
  const RunFiles again(folder.path());
  EXPECT_TRUE(again.has_list());
  EXPECT_EQ(again.names(), files.names());
  EXPECT_TRUE(again.any());
}

TEST(RunFiles, ATornLineAndNamesOutsideTheFolderAreNotTaken) {
  const TemporaryFolder folder;
  RunFiles files(folder.path());
  files.write();
  const std::string text = bytes_of(files.path());
  put_file(files.path(), text + "final.pth\n../other\n/etc/passwd\n..\ncheckpoints/x\nsjnet_1");
  RunFiles torn(folder.path());
  EXPECT_THAT(torn.names(), ElementsAre("final.pth"));
  torn.claim("sjnet_12.pth");
  EXPECT_THAT(RunFiles(folder.path()).names(), ElementsAre("final.pth", "sjnet_12.pth"));
}

TEST(RunFiles, AFileOfAnotherIsNeitherClaimedNorReplaced) {
  const TemporaryFolder folder;
  put_file(folder / "sjnet_3.pth", "mine");
  RunFiles files(folder.path());
  expect_error(ExitCode::usage, {"sjnet_3.pth", "not a file of this run"}, [&] { files.add_those_of(Settings(), 1); });
  files.write();
  expect_error(ExitCode::io, {"sjnet_3.pth", "not this run's"}, [&] { files.claim("sjnet_3.pth"); });
}

TEST(RunFiles, AFlightRecordThatSomebodyKeptIsInTheWay) {
  const TemporaryFolder folder;
  put_file(folder / "flight-rank-1.json", "kept for a report");
  RunFiles(folder.path()).add_those_of(Settings(), 1);
  expect_error(ExitCode::usage, {"flight-rank-1.json", "not a file of this run"},
               [&] { RunFiles(folder.path()).add_those_of(Settings(), 2); });
}

TEST(RunFiles, RemovesItsOwnAndWhatAKilledWriterLeftOfThem) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "checkpoints");
  RunFiles files(folder.path());
  files.add_those_of(Settings(), 1);
  files.write();
  for (const char* name :
       {"final.pth", "final.pth.tmp-12-0", "owner", "notes.txt", "notes.txt.tmp-12-0", "checkpoints/latest",
        "checkpoints/step-0000002.safetensors", "checkpoints/step-0000004.safetensors.damaged",
        "checkpoints/step-0000006.safetensors.tmp-1-2", "checkpoints/best.safetensors"}) {
    put_file(folder / name, "x");
  }
  EXPECT_THAT(files.others(),
              ElementsAre("checkpoints/best.safetensors", "final.pth.tmp-12-0", "notes.txt", "notes.txt.tmp-12-0"));
  files.remove_all({"owner"});
  EXPECT_THAT(files.others(), ElementsAre("checkpoints/best.safetensors", "notes.txt", "notes.txt.tmp-12-0"));
  EXPECT_TRUE(std::filesystem::exists(folder / "owner"));
  EXPECT_FALSE(std::filesystem::exists(folder / "final.pth"));
}

TEST(RunFiles, WithoutAListOnlyWhatTheRunTellsOfIsItsOwn) {
  const TemporaryFolder folder;
  Settings settings;
  settings.train_epochs = 3;
  put_file(folder / "config.toml", to_toml(settings));
  put_file(folder / "owner", R"({"nonce":"1","host":"node.a","pid":42})");
  for (const char* name :
       {"metrics.jsonl", "sjnet_2.pth", "sjnet_3.pth", "airbench94_0.pth", "events.out.tfevents.17.node.a.42.1",
        "events.out.tfevents.17.node.a.43.0", "events.out.tfevents.17.node.a.42.0.v2"}) {
    put_file(folder / name, "x");
  }
  EXPECT_THAT(RunFiles(folder.path()).names(), ElementsAre("config.toml", "events.out.tfevents.17.node.a.42.1",
                                                           "metrics.jsonl", "owner", "sjnet_2.pth"));
}

}  // namespace
}  // namespace lockstep
