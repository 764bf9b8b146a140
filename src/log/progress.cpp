#include "log/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "log/text.h"

namespace lockstep {
namespace {

constexpr auto kRedraw = std::chrono::milliseconds(100);
constexpr auto kPlainLine = std::chrono::seconds(10);
constexpr int kSmallestBar = 8;
constexpr int kLargestBar = 40;
constexpr const char* kEraseLine = "\r\x1b[K";

int columns(FILE* out) {
  winsize size{};
  return ::ioctl(::fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

double part_done(const ProgressState& state) {
  if (state.total_steps <= 0) return 0;
  return std::clamp(static_cast<double>(state.step) / static_cast<double>(state.total_steps), 0.0, 1.0);
}

std::string bar(double part, int length) {
  const int done = static_cast<int>(part * length);
  std::string text(static_cast<std::size_t>(done), '=');
  if (done < length) text += '>';
  text.resize(static_cast<std::size_t>(length), ' ');
  return "[" + text + "]";
}

}  // namespace

std::string progress_text(const ProgressState& state, int width) {
  std::vector<std::string> parts;
  if (state.total_steps > 0) {
    // The last percent is for the last step only.
    parts.push_back(fmt::format("{:3}%", static_cast<int>(part_done(state) * 100)));
    parts.push_back(fmt::format("step {}/{}", state.step, state.total_steps));
  } else {
    parts.push_back(fmt::format("step {}", state.step));
  }
  if (!std::isnan(state.loss)) parts.push_back(fmt::format("loss {:.4f}", state.loss));
  if (state.seconds_left >= 0) parts.push_back(human_duration(state.seconds_left) + " left");
  if (state.images_per_s > 0) parts.push_back(grouped(std::llround(state.images_per_s)) + " images/s");

  // Epochs count from 0, as in the lines and files of a run.
  const std::string head = state.epochs > 0 ? fmt::format("epoch {}  ", std::min(state.epoch, state.epochs - 1)) : "";
  if (width <= 0) return head + parts_within(parts, 0);
  const auto limit = static_cast<std::size_t>(width);
  const std::size_t beside = head.size() + kSmallestBar + 4;  // brackets and two blanks
  if (state.total_steps <= 0 || limit < beside + parts[0].size()) {
    parts[0].insert(0, head);
    return parts_within(parts, limit).substr(0, limit);
  }
  const std::string tail = parts_within(parts, limit - beside);
  const auto room = static_cast<int>(limit - head.size() - tail.size() - 4);
  return head + bar(part_done(state), std::min(room, kLargestBar)) + "  " + tail;
}

void Progress::step(const ProgressState& state) {
  if (quiet_) return;
  const auto now = Clock::now();
  const bool last_step = state.total_steps > 0 && state.step >= state.total_steps;
  if (!last_step && last_ != Clock::time_point{} && now - last_ < (terminal_ ? Clock::duration(kRedraw) : kPlainLine))
    return;
  last_ = now;
  if (terminal_) {
    // A full last column would wrap.
    bar_ = mark_ + progress_text(state, std::max(1, columns(out_) - 1 - static_cast<int>(mark_.size())));
    draw();
  } else {
    line(progress_text(state, 0));
  }
}

void Progress::line(std::string_view text) {
  if (quiet_) return;
  // In one call, so that the bar is never seen without its line.
  fmt::memory_buffer out;
  if (!bar_.empty()) fmt::format_to(std::back_inserter(out), "{}", kEraseLine);
  fmt::format_to(std::back_inserter(out), "{}{}\n{}", mark_, text, bar_);
  std::fwrite(out.data(), 1, out.size(), out_);
  std::fflush(out_);
}

void Progress::finish() {
  if (bar_.empty()) return;
  bar_.clear();
  std::fputs(kEraseLine, out_);
  std::fflush(out_);
}

void Progress::draw() {
  const std::string text = kEraseLine + bar_;
  std::fwrite(text.data(), 1, text.size(), out_);
  std::fflush(out_);
}

}  // namespace lockstep
