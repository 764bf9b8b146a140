#include "train/fault.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <map>
#include <regex>
#include <stdexcept>
#include <thread>

#include "lockstep/error.h"

namespace lockstep {
namespace {

constexpr std::array kPoints = {"init", "evaluation", "checkpoint", "commit", "finish"};

// The one of `list` for this start; empty when there is none.
std::string nth(const std::string& list, int64_t n) {
  size_t begin = 0;
  for (; n > 0; --n) {
    begin = list.find(',', begin);
    if (begin == std::string::npos) return "";
    ++begin;
  }
  return list.substr(begin, list.find(',', begin) - begin);
}

}  // namespace

int64_t restart_count() {
  for (const char* name : {"LOCKSTEP_RESTART", "SLURM_RESTART_COUNT"}) {
    if (const char* text = std::getenv(name); text != nullptr && *text != '\0') return std::atoll(text);
  }
  return 0;
}

Fault::Fault(int rank) {
  const char* all = std::getenv("LOCKSTEP_FAULT");
  if (all == nullptr || *all == '\0') return;
  text_ = nth(all, restart_count());
  if (text_.empty()) return;
  static const std::map<std::string, Kind> kinds = {{"throw", Kind::throws}, {"kill", Kind::kill}, {"stop", Kind::stop},
                                                    {"exit", Kind::exit},    {"slow", Kind::slow}, {"nan", Kind::nan},
                                                    {"flip", Kind::flip}};
  static const std::regex form(R"(([a-z]+)(?:=([0-9.]{1,9}))?@([0-9]{1,6}):(?:([0-9]{1,15})|([a-z]+)))");
  std::smatch parts;
  const bool fits = std::regex_match(text_, parts, form) && kinds.contains(parts[1]);
  int point = -1;
  for (size_t i = 0; fits && parts[5].matched && i < kPoints.size(); ++i) {
    if (parts[5] == kPoints[i]) point = static_cast<int>(i);
  }
  const Kind kind = fits ? kinds.at(parts[1]) : Kind::none;
  const bool in_steps_only = kind == Kind::nan || kind == Kind::flip;
  if (!fits || (parts[5].matched && (point < 0 || in_steps_only)) || (parts[2].matched && kind != Kind::slow)) {
    throw Error(ExitCode::usage, fmt::format("LOCKSTEP_FAULT={} is no fault", text_),
                "write LOCKSTEP_FAULT=KIND@RANK:STEP with throw, kill, stop, exit, slow, nan or flip; in place of the "
                "step, all but the last two take init, evaluation, checkpoint, commit or finish; or unset it");
  }
  kind_ = kind;
  if (parts[2].matched) seconds_ = std::atof(parts[2].str().c_str());
  if (parts[4].matched) step_of_any_ = std::atoll(parts[4].str().c_str());
  if (std::atoi(parts[3].str().c_str()) != rank) return;
  step_ = step_of_any_;
  point_ = point;
}

void Fault::in_step(int64_t step) const {
  if (step == step_) happen(fmt::format("in step {}", step));
}

void Fault::at(Point point) const {
  if (static_cast<int>(point) == point_) happen(fmt::format("at {}", kPoints[static_cast<size_t>(point)]));
}

void Fault::happen(const std::string& where) const {
  switch (kind_) {
    case Kind::throws:
      throw std::runtime_error(fmt::format("the planted fault {} {}", text_, where));
    case Kind::kill:
      raise(SIGKILL);
      return;
    case Kind::stop:
      raise(SIGSTOP);
      return;
    case Kind::exit:
      _exit(3);
    case Kind::slow:
      std::this_thread::sleep_for(std::chrono::duration<double>(seconds_));
      return;
    case Kind::none:
    case Kind::nan:
    case Kind::flip:
      return;
  }
}

}  // namespace lockstep
