// What a person sees while a run goes on: a progress bar on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>

namespace lockstep {

struct ProgressState {
  int64_t step = 0;         ///< steps done, from the run's beginning
  int64_t total_steps = 0;  ///< 0: not known
  int64_t epoch = 0;        ///< the current one, from 0
  int64_t epochs = 0;
  double loss = std::nan("");  ///< the last one logged; NaN: none yet, not shown
  double images_per_s = 0;     ///< 0: not known
  double seconds_left = std::nan("");
};

/// Draws the progress of a run on `out`, which outlives it.
///
///     Progress progress(stdout, isatty(STDOUT_FILENO) == 1, quiet);
///     progress.line("step 100  train loss 2.3012");
///     progress.step({.step = 101, .total_steps = 7820, …});
///     progress.finish();
///
/// On a terminal step() redraws one line in place, ten times a second at most. Elsewhere it prints a line every ten
/// seconds at most, so that a batch job's log shows life and stays short. The state of the last step is always shown.
/// quiet: nothing is printed. Output that cannot be written is ignored. One thread.
class Progress {
 public:
  /// `mark` stands before every line and bar.
  Progress(FILE* out, bool terminal, bool quiet, std::string mark = "")
      : out_(out), terminal_(terminal), quiet_(quiet), mark_(std::move(mark)) {}
  ~Progress() { finish(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void step(const ProgressState& state);
  /// Prints a line of text above the bar.
  void line(std::string_view text);
  /// Takes the bar away. What follows starts on a line of its own.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;

  void draw();

  FILE* out_;
  bool terminal_;
  bool quiet_;
  std::string mark_;
  std::string bar_;  // as drawn last; empty: there is none
  Clock::time_point last_{};
};

/// One line without its line break: epoch, bar, percent, step, loss, time left, rate. Where `width` columns are too
/// few, parts at the end go first and the bar last. width 0: no bar, no limit.
std::string progress_text(const ProgressState& state, int width);

}  // namespace lockstep
