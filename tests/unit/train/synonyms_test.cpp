#include "train/synonyms.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "lockstep/settings.h"

namespace lockstep {
namespace {

using Flags = std::vector<std::string>;
const Flags kTrain = {"--recipe",  "--data-dir",  "--out",  "--overwrite",      "--resume",
                      "--epochs",  "--max-steps", "--seed", "--batch-per-rank", "--lr-scale",
                      "--threads", "--device",    "--set",  "--trace"};
const Flags kEvaluate = {"--data-dir", "--model", "--batch", "--tta", "--threads", "--device"};

std::string meant(const Flags& flags, const std::string& word, const std::string& value = "") {
  return meaning_of(
      word, value, [&](const std::string& flag) { return std::find(flags.begin(), flags.end(), flag) != flags.end(); });
}

TEST(Synonyms, AValueWithBracesIsShownAsItIs) { EXPECT_EQ(meant(kTrain, "--output", "runs/{}"), "--out runs/{}"); }

TEST(Synonyms, FlagsOfOtherProgramsAreSettings) {
  for (const char* word : {"--lr", "--learning-rate", "--learning_rate", "-lr", "--LR"}) {
    EXPECT_EQ(meant(kTrain, word, "0.1"), "--set optim.lr=0.1") << word;
  }
  EXPECT_EQ(meant(kTrain, "--momentum", "0.9"), "--set optim.momentum=0.9");
  EXPECT_EQ(meant(kTrain, "--weight-decay", "1e-4"), "--set optim.weight_decay=1e-4");
  EXPECT_EQ(meant(kTrain, "--wd", "1e-4"), "--set optim.weight_decay=1e-4");
  EXPECT_EQ(meant(kTrain, "--model", "sjnet"), "--set model.name=sjnet");
  EXPECT_EQ(meant(kTrain, "--amp"), "--set train.precision=bf16");
  EXPECT_EQ(meant(kTrain, "--optim.lr", "0.1"), "--set optim.lr=0.1");
  EXPECT_EQ(meant(kTrain, "--virtual_ranks"), "--set train.virtual_ranks=VALUE");
  EXPECT_EQ(meant(kTrain, "--every-steps", "5"), "--set log.every_steps=5 or --set checkpoint.every_steps=5");
  EXPECT_EQ(meant(kTrain, "--batch-size", "32"),
            "--set train.global_batch=32 for all ranks together, or --batch-per-rank 32 --lr-scale RULE for each rank");
}

TEST(Synonyms, AValueThatTheSettingRejectsIsNotAdvised) {
  EXPECT_EQ(meant(kTrain, "--optimizer", "adam"), "--set optim.name=VALUE, one of: sgd, muon");
  EXPECT_EQ(meant(kTrain, "--optimizer", "muon"), "--set optim.name=muon");
}

TEST(Synonyms, FlagsOfOtherProgramsAreFlags) {
  for (const char* word : {"--log-dir", "--output", "--output_dir", "--save-dir", "-o"}) {
    EXPECT_EQ(meant(kTrain, word, "x"), "--out x") << word;
  }
  EXPECT_EQ(meant(kTrain, "--checkpoint", "a.ckpt"), "--resume a.ckpt");
  EXPECT_EQ(meant(kTrain, "--epoch", "3"), "--epochs 3");
  for (const char* word : {"--gpu", "--gpus", "--devices", "--cuda"}) {
    EXPECT_EQ(meant(kTrain, word, "2"), "--device cuda: each rank takes one GPU, and `mpirun -n N` starts N ranks")
        << word;
  }
  EXPECT_EQ(meant(kTrain, "--workers", "4").substr(0, 12), "--threads N ");
  EXPECT_EQ(meant(kTrain, "--nproc_per_node", "2").substr(0, 13), "`mpirun -n N`");
}

TEST(Synonyms, NothingIsAdvisedThatTheCommandRejects) {
  EXPECT_EQ(meant(kEvaluate, "--batch-size", "3"), "--batch 3");
  EXPECT_EQ(meant(kEvaluate, "--arch", "sjnet"), "--model sjnet");
  EXPECT_EQ(meant(kEvaluate, "--lr", "0.1"), "");
  EXPECT_EQ(meant(kEvaluate, "--momentum", "0.1"), "");
  EXPECT_EQ(meant({}, "--gpu"), "");
  EXPECT_EQ(meant(kTrain, "--zzz"), "");
  EXPECT_EQ(meant(kTrain, "--", "x"), "");
}

TEST(Synonyms, SettingsAreMeantByOtherNamesToo) {
  EXPECT_EQ(setting_meant("learning_rate"), "optim.lr");
  EXPECT_EQ(setting_meant("train.batch_size"), "train.global_batch");
  EXPECT_EQ(setting_meant("optim.optimizer"), "optim.name");
  EXPECT_EQ(setting_meant("train.momentum"), "optim.momentum");
  EXPECT_EQ(setting_meant("momentun"), "");
  for (const SettingHelp& setting : setting_help()) {
    const std::string name = setting_meant(setting.name);
    EXPECT_TRUE(name.empty() || knows_setting(name)) << name;
  }
}

}  // namespace
}  // namespace lockstep
