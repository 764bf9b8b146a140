// The comm thread's part in roll calls: answering others, and finding out who is missing when a deadline has passed.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

#include "lockstep/error.h"
#include "world/comm_thread.h"

namespace lockstep {
namespace {

using std::chrono::milliseconds;

// How often questions of other ranks are looked for at most.
constexpr milliseconds kListen{20};
// How long answers are waited for.
constexpr milliseconds kAnswer{1000};

}  // namespace

Presence CommThread::presence() const {
  Presence mine;
  const Whereabouts::Now where = watch_->where();
  mine.step = where.step;
  mine.seconds = where.seconds;
  mine.begun = submitted_;
  if (where.doing != nullptr) std::strncpy(mine.doing, where.doing, sizeof mine.doing - 1);
  if (!active_.empty()) std::strncpy(mine.operation, active_[0]->name_.c_str(), sizeof mine.operation - 1);
  return mine;
}

void CommThread::attend(Clock::time_point now) {
  if (!roll_call_ || (failure_ && !only_late_) || now - listened_ < kListen) return;
  listened_ = now;
  try {
    if (roll_call_->listen()) was_asked_ = true;
  } catch (const Error&) {
    if (!failure_) throw;
    only_late_ = false;
  }
}

// Those who wait for answers do so from the latest call on, whoever made it: it makes earlier answers void.
void CommThread::call_roll(Clock::time_point now) {
  if (now - called_ <= kAnswer) return;
  called_ = now;
  roll_call_->ask();
}

bool CommThread::roll_is_called(Clock::time_point now) const {
  return roll_call_->complete() || now - called_ > kAnswer;
}

void CommThread::check_deadlines(Clock::time_point now) {
  const auto late =
      std::find_if(active_.begin(), active_.end(), [&](const auto& operation) { return now >= operation->deadline_; });
  if (late == active_.end()) {
    asked_at_.reset();  // what was late has come
  } else if (!roll_call_) {
    tell_missing(**late, now);
  } else if (!asked_at_) {
    asked_at_ = now;
    call_roll(now);
  } else if (roll_is_called(now)) {
    only_late_ = true;
    tell_missing(**late, now);
  }
}

void CommThread::tell_missing(const MpiOperation& late, Clock::time_point now) const {
  const auto seconds = [&](Clock::time_point since) { return std::chrono::duration<double>(now - since).count(); };
  std::string what = fmt::format("{} (operation {}, {} bytes)", late.name_, late.number_, late.bytes_);
  if (watch_ && watch_->where().doing != nullptr) {
    what += fmt::format(" in {} of step {}", watch_->where().doing, watch_->where().step);
  }
  what += fmt::format(" has waited {:.1f} s for ", seconds(late.submitted_));
  const char* const go_on = "then start again with --resume auto";
  std::vector<std::string> silent;
  std::vector<std::string> behind;
  if (roll_call_) {
    const auto& answers = roll_call_->answers();
    for (size_t rank = 0; rank < answers.size(); ++rank) {
      const std::string place = watch_->place(static_cast<int>(rank));
      if (place.empty()) continue;  // this rank
      if (!answers[rank]) {
        silent.push_back(place);
      } else if (answers[rank]->begun < late.number_) {
        const Presence& there = *answers[rank];
        behind.push_back(fmt::format("{}, which is alive but {:.1f} s in {} of step {}", place, there.seconds,
                                     there.doing[0] == '\0' ? "its own work" : there.doing, there.step));
      }
    }
  }
  if (!silent.empty()) {
    throw Error(ExitCode::rank_lost,
                fmt::format("{}{}: no answer, and nothing heard for {:.1f} s", what, fmt::join(silent, " and "),
                            seconds(last_end_ == Clock::time_point() ? late.submitted_ : last_end_)),
                fmt::format("it stands still, is dead or cut off: look at it and its host, {}", go_on));
  }
  if (!behind.empty()) {
    throw Error(ExitCode::rank_lost, fmt::format("{}{}", what, fmt::join(behind, " and ")),
                fmt::format("if it is only slow, raise watch.deadline_s; else look at what holds it up, {}", go_on));
  }
  throw Error(
      ExitCode::rank_lost, what + late.waits_for() + (roll_call_ ? "; every rank answers" : ""),
      fmt::format("a rank stands still, or messages between ranks do not arrive; look at their hosts, {}", go_on));
}

CommThread::Others CommThread::ask_others() {
  Others others;
  // Who asks is the last to notice that something stands still, so it waits for nothing: not for the lock either, which
  // a call of MPI that hangs would keep.
  std::unique_lock lock(mutex_, std::defer_lock);
  const auto locked = [&] {
    for (int i = 0; i < 100 && !lock.try_lock(); ++i) std::this_thread::sleep_for(milliseconds(10));
    return lock.owns_lock();
  };
  const auto failed = [&] {
    if (!failure_) return false;
    try {
      std::rethrow_exception(failure_);
    } catch (const Error& error) {
      others.failure = error;
    } catch (const std::exception& error) {
      others.failure = Error(ExitCode::internal, error.what(), "report it with `lockstep --version`");
    }
    return true;
  };
  if (!locked() || failed() || !roll_call_) return others;
  Operations ended;
  try {
    call_roll(Clock::now());
    while (!failed() && !roll_is_called(Clock::now())) {
      lock.unlock();
      std::this_thread::sleep_for(kListen / 2);
      if (!locked()) return others;
      attend(Clock::now());
    }
  } catch (...) {
    fail(std::current_exception(), ended);
    failed();
  }
  if (others.failure) {
    lock.unlock();
    finish(ended);
    return others;
  }
  int64_t earliest = watch_->where().step;
  const auto& answers = roll_call_->answers();
  for (size_t rank = 0; rank < answers.size(); ++rank) {
    const std::string place = watch_->place(static_cast<int>(rank));
    if (place.empty()) continue;  // this rank
    const auto& answer = answers[rank];
    if (!answer) {
      others.silent.push_back(place);
    } else if (answer->doing[0] != '\0' && answer->step < earliest) {
      earliest = answer->step;
      others.behind = fmt::format("{}, alive and in {} of step {}", place, answer->doing, answer->step);
    }
  }
  return others;
}

}  // namespace lockstep
