#include "log/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "log/text.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(Text, DurationsReadAsPeopleSayThem) {
  EXPECT_EQ(human_duration(0), "0s");
  EXPECT_EQ(human_duration(44.6), "45s");
  EXPECT_EQ(human_duration(59.7), "1m 00s");
  EXPECT_EQ(human_duration(125), "2m 05s");
  EXPECT_EQ(human_duration(3 * 3600 + 4 * 60 + 59), "3h 04m");
  EXPECT_EQ(human_duration(49 * 3600), "2d 01h");
  EXPECT_EQ(human_duration(-1), "?");
  EXPECT_EQ(human_duration(std::nan("")), "?");
  EXPECT_NE(human_duration(1e300), "");
}

TEST(Text, LargeNumbersAreGrouped) {
  EXPECT_EQ(grouped(0), "0");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(1000), "1,000");
  EXPECT_EQ(grouped(1234567), "1,234,567");
  EXPECT_EQ(grouped(-123), "-123");
  EXPECT_EQ(grouped(-1234), "-1,234");
}

TEST(Text, PartsAtTheEndGoWhereThereIsNoRoom) {
  EXPECT_EQ(parts_within({"one", "two", "three"}, 0), "one  two  three");
  EXPECT_EQ(parts_within({"one", "two", "three"}, 14), "one  two");
  EXPECT_EQ(parts_within({"one", "two", "three"}, 15), "one  two  three");
  EXPECT_EQ(parts_within({"too long", "x"}, 3), "too long");
}

TEST(Text, LinesAreBrokenAtBlanksAndPathsAreNot) {
  using Lines = std::vector<std::string>;
  EXPECT_EQ(wrapped("  name  a b c", 80, 4), Lines{"  name  a b c"});
  EXPECT_EQ(wrapped("  name  aa bb cc", 11, 4), (Lines{"  name  aa", "    bb cc"}));
  EXPECT_EQ(wrapped("/a/long/path and more", 5, 2), (Lines{"/a/long/path", "  and", "  more"}));
  EXPECT_EQ(wrapped("≈≈≈ ≈≈≈", 7, 0), Lines{"≈≈≈ ≈≈≈"});
  EXPECT_EQ(wrapped("", 5, 2), Lines{""});
}

ProgressState middle() {
  return {.step = 352,
          .total_steps = 1000,
          .epoch = 2,
          .epochs = 10,
          .loss = 1.23456,
          .images_per_s = 12345,
          .seconds_left = 125};
}

TEST(ProgressText, SaysEverything) {
  EXPECT_EQ(progress_text(middle(), 0), "epoch 2   35%  step 352/1000  loss 1.2346  2m 05s left  12,345 images/s");
}

TEST(ProgressText, HasABarWhereThereIsRoom) {
  EXPECT_THAT(progress_text(middle(), 120), HasSubstr("epoch 2  [==============>                         ]   35%"));
  ProgressState end = middle();
  end.step = 1000;
  EXPECT_THAT(progress_text(end, 120), HasSubstr("[========================================]  100%"));
}

TEST(ProgressText, KeepsTheBarOnATerminalOf80ColumnsAndCountsEpochsAsTheLinesDo) {
  const int width = 79 - static_cast<int>(std::string("[SYNTHETIC] ").size());
  EXPECT_EQ(progress_text(middle(), 79),
            "epoch 2  [=======>             ]   35%  step 352/1000  loss 1.2346  2m 05s left");
  EXPECT_EQ(progress_text(middle(), width), "epoch 2  [===>     ]   35%  step 352/1000  loss 1.2346  2m 05s left");
  ProgressState last = middle();
  last.epoch = last.epochs;  // after the last step
  EXPECT_THAT(progress_text(last, 79), HasSubstr("epoch 9  ["));
}

TEST(ProgressText, NeverExceedsTheWidth) {
  for (int width = 1; width < 200; ++width)
    EXPECT_LE(progress_text(middle(), width).size(), static_cast<std::size_t>(width));
  EXPECT_THAT(progress_text(middle(), 40), HasSubstr("step 352/1000"));
}

TEST(ProgressText, LeavesOutWhatIsNotKnown) {
  EXPECT_EQ(progress_text({.step = 7}, 100), "step 7");
  EXPECT_THAT(progress_text({.step = 7, .total_steps = 9}, 0), Not(HasSubstr("loss")));
}

TEST(ProgressText, SaysAHundredPercentAtTheEndOnly) {
  EXPECT_THAT(progress_text({.step = 99'999, .total_steps = 100'000}, 0), HasSubstr(" 99%"));
  EXPECT_THAT(progress_text({.step = 100'000, .total_steps = 100'000}, 0), HasSubstr("100%"));
}

// What a Progress writes to a file.
class Written : public ::testing::Test {
 protected:
  ~Written() override { std::fclose(file); }
  std::string text() const {
    std::string all;
    std::rewind(file);
    for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file)) all += static_cast<char>(c);
    return all;
  }
  std::FILE* file = std::tmpfile();
};

TEST_F(Written, PlainLinesAreFewAndEndWithTheLastStep) {
  {
    Progress progress(file, false, false);
    for (int64_t step = 1; step <= 1000; ++step) progress.step({.step = step, .total_steps = 1000});
    progress.line("done");
  }
  EXPECT_EQ(text(), "  0%  step 1/1000\n100%  step 1000/1000\ndone\n");
}

TEST_F(Written, ALineOnATerminalStandsAboveTheBar) {
  Progress progress(file, true, false);
  progress.step({.step = 1, .total_steps = 2});
  const std::string bar = text();
  EXPECT_EQ(bar.rfind("\r\x1b[K", 0), 0u);
  EXPECT_THAT(bar, Not(HasSubstr("\n")));
  progress.line("a line");
  EXPECT_EQ(text(), bar + "\r\x1b[Ka line\n" + bar.substr(4));
  progress.finish();
  EXPECT_THAT(text(), ::testing::EndsWith("\r\x1b[K"));
}

TEST_F(Written, ATerminalIsRedrawnTenTimesASecondAtMost) {
  Progress progress(file, true, false);
  progress.step({.step = 1, .total_steps = 9});
  const std::size_t first = text().size();
  progress.step({.step = 2, .total_steps = 9});
  EXPECT_EQ(text().size(), first);
  std::this_thread::sleep_for(std::chrono::milliseconds(110));
  progress.step({.step = 3, .total_steps = 9});
  EXPECT_GT(text().size(), first);
}

TEST_F(Written, TheMarkStandsBeforeEveryLineAndBar) {
  {
    Progress progress(file, false, false, "[SYNTHETIC] ");
    progress.step({.step = 1, .total_steps = 1});
    progress.line("done");
  }
  EXPECT_EQ(text(), "[SYNTHETIC] 100%  step 1/1\n[SYNTHETIC] done\n");
  Progress progress(file, true, false, "[SYNTHETIC] ");
  progress.step({.step = 1, .total_steps = 1});
  EXPECT_THAT(text(), HasSubstr("\r\x1b[K[SYNTHETIC] ["));
}

TEST_F(Written, QuietPrintsNothing) {
  for (const bool terminal : {false, true}) {
    Progress progress(file, terminal, true);
    progress.step({.step = 1, .total_steps = 1});
    progress.line("a line");
  }
  EXPECT_EQ(text(), "");
}

}  // namespace
}  // namespace lockstep
