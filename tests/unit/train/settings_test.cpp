#include "lockstep/settings.h"

#include <gtest/gtest.h>

#include "../temporary_folder.h"
#include "lockstep/error.h"
#include "train/nearest.h"

namespace lockstep {
namespace {

std::string message_of(const std::function<void()>& work, ExitCode code = ExitCode::usage) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    return std::string(error.what()) + " | " + error.hint();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

Settings from_text(const std::string& text) {
  test::TemporaryFolder folder;
  test::put_file(folder / "settings.toml", text);
  return load_recipe(folder / "settings.toml");
}

TEST(Settings, TheTutorialIsUnshuffledPlainSgdWithBatch64) {
  const Settings settings = load_recipe("tutorial");
  EXPECT_FALSE(settings.data_shuffle);
  EXPECT_EQ(settings.train_global_batch, 64);
  EXPECT_EQ(settings.optim_lr, 0.01);
  EXPECT_EQ(settings.optim_momentum, 0);
  EXPECT_EQ(settings.train_epochs, 10);
  EXPECT_EQ(settings.model_name, "sjnet");
}

TEST(Settings, Airbench94sRatesAreItsOwnForTheMeanOfItsBatch) {
  const Settings settings = load_recipe("airbench94");
  check_settings(settings);
  const auto batch = static_cast<double>(settings.train_global_batch);
  EXPECT_DOUBLE_EQ(settings.optim_bias_lr, 0.053 * batch);
  EXPECT_DOUBLE_EQ(settings.optim_head_lr, 0.67 * batch);
  EXPECT_EQ(settings.optim_lr, 0.24);
  EXPECT_EQ(settings.train_label_smoothing, 0.2);
}

TEST(Settings, SurviveARoundTripThroughTheirFile) {
  Settings settings = load_recipe("tutorial");
  for (const char* assignment :
       {"optim.lr=0.1", "optim.momentum=0.3333333333333333", "data.dir=a \"folder\" with\\slash and ü",
        "data.seed=9007199254740993", "optim.weight_decay=5e-4", "data.shuffle=true"}) {
    apply_setting(settings, assignment);
  }
  const Settings again = from_text(to_toml(settings));
  EXPECT_EQ(setting_values(again), setting_values(settings));
}

TEST(Settings, AnUnknownNameIsAnsweredWithTheNearest) {
  Settings settings;
  EXPECT_NE(message_of([&] { apply_setting(settings, "optim.momentun=0.9"); }).find("did you mean 'optim.momentum'?"),
            std::string::npos);
  EXPECT_NE(message_of([&] { apply_setting(settings, "lr=0.9"); }).find("did you mean 'optim.lr'?"), std::string::npos);
  EXPECT_NE(message_of([&] { load_recipe("tutorail"); }).find("did you mean 'tutorial'?"), std::string::npos);
}

TEST(Settings, ValuesOutOfRangeOrOfAnotherTypeAreRefusedWithWhatIsAllowed) {
  Settings settings;
  for (const char* assignment :
       {"optim.lr=-1", "optim.lr=nan", "optim.lr=fast", "optim.lr=", "train.global_batch=0", "train.global_batch=64.5",
        "train.global_batch=99999999999999999999", "data.shuffle=yes", "model.name=resnet", "optim.momentum=1.5",
        "optim.name=adamm", "optim.lr=0,01", "optim.weight_decay=-0.1", "train.max_steps=-3", "train.seed=-1",
        "eval.batch=0"}) {
    EXPECT_NE(message_of([&] { apply_setting(settings, assignment); }).find("allowed:"), std::string::npos)
        << assignment;
  }
  message_of([&] { apply_setting(settings, "optim.lr"); });
}

TEST(Settings, AFileNamesTheLineOfItsMistake) {
  EXPECT_NE(message_of([] { from_text("[train]\nepochs = 3\nepoch = 4\n"); }).find(".toml:3"), std::string::npos);
  EXPECT_NE(message_of([] { from_text("[optim]\nlr = \"0.1\"\n"); }).find(".toml:2"), std::string::npos);
  EXPECT_NE(message_of([] { from_text("[optim\n"); }).find(".toml:1"), std::string::npos);
  EXPECT_NE(message_of([] { from_text("[model]\nname = 3\n"); }).find("allowed: one of: airbench94, sjnet"),
            std::string::npos);
}

TEST(Settings, AMissingFileIsAMissingInput) {
  message_of([] { load_recipe("no/such.toml"); }, ExitCode::missing);
}

TEST(Settings, ATextThatConfigTomlCouldNotHoldIsRefused) {
  Settings settings;
  settings.data_dir =
      "donn\xe9"
      "es";
  EXPECT_NE(message_of([&] { check_settings(settings); }).find("data.dir = \"donn\\xe9es\" is not UTF-8"),
            std::string::npos);
}

TEST(Settings, NesterovWantsMomentum) {
  Settings settings;
  apply_setting(settings, "optim.nesterov=true");
  message_of([&] { check_settings(settings); });
  apply_setting(settings, "optim.momentum=0.9");
  check_settings(settings);
}

TEST(Nearest, IsSilentWhenNothingIsNear) { EXPECT_EQ(nearest("zzzzzz", {"tutorial", "tuned"}), ""); }

}  // namespace
}  // namespace lockstep
