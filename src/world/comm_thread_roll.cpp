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
// When a rank that waits asks for the first time which collective the others make, and the longest time to the next
// question; with many ranks, which may all ask, longer by a sixteenth of a second for each.
constexpr milliseconds kFirstDoubt{1000};
constexpr milliseconds kLongestDoubt{5000};
constexpr int kRanksOfASecond = 16;
// How long a message may wait for a rank that is known to have left in order: it may still be on its way.
constexpr milliseconds kOnItsWay{3000};
// How long a rank waits for one that has left after an error before it says so itself: that rank has told more, and its
// end makes the launcher end the job.
constexpr milliseconds kLastWordsOfOthers{2000};

}  // namespace

Presence CommThread::presence(uint64_t asked) const {
  Presence mine;
  const Whereabouts::Now where = watch_->where();
  mine.step = where.step;
  mine.last_step = watch_->last_step();
  mine.seconds = where.seconds;
  mine.begun = submitted_;
  mine.collectives = collectives_;
  mine.one_caller = one_caller();
  mine.asked = flight_.collective(asked);
  if (where.doing != nullptr) std::strncpy(mine.doing, where.doing, sizeof mine.doing - 1);
  if (!active_.empty()) {
    mine.ending = active_[0]->call_.is_end();
    std::strncpy(mine.operation, active_[0]->text().c_str(), sizeof mine.operation - 1);
  }
  return mine;
}

void CommThread::attend(Clock::time_point now) {
  if (!roll_call_ || (failure_ && !mpi_is_well_) || now - listened_ < kListen) return;
  listened_ = now;
  RollCall::Heard heard;
  try {
    heard = roll_call_->listen();
  } catch (const Error&) {
    if (!failure_) throw;
    mpi_is_well_ = false;
  }
  if (!heard.left.empty() && !left_) left_ = Left{heard.left[0], now};
  for (const auto& asked : heard.questions) {
    if (asked.question.late) was_asked_ = true;
    if (!failure_) compare_call(asked);
  }
}

// Those who wait for answers do so from the latest call on, whoever made it: it makes earlier answers void.
void CommThread::call_roll(Clock::time_point now, const MpiOperation* waiting, bool late) {
  RollCall::Question question;
  if (waiting != nullptr) question = {.number = waiting->collective_, .call = waiting->call_};
  question.late = late;
  const RollCall::Question& last = roll_call_->question();
  if (now - called_ <= kAnswer && last.number == question.number && (last.late || !late)) return;
  called_ = now;
  roll_call_->ask(question);
}

CallOfRank CommThread::own_call(const Call& call, uint64_t number) const {
  const Whereabouts::Now where = watch_->where();
  return {.place = fmt::format("rank {}", roll_call_->rank()),
          .call = call,
          .number = number,
          .doing = where.doing == nullptr ? "" : fmt::format("{} of step {}", where.doing, where.step),
          .last_step = watch_->last_step()};
}

CallOfRank CommThread::call_of(int rank, const Call& call, uint64_t number, const Presence& presence) const {
  return {.place = watch_->place(rank),
          .call = call,
          .number = number,
          .doing = presence.doing[0] == '\0' ? "" : fmt::format("{} of step {}", presence.doing, presence.step),
          .last_step = presence.last_step};
}

// Each rank's n-th collective is the same one, or the ranks do not run the same program.
void CommThread::compare_calls(const MpiOperation& waiting) const {
  if (waiting.collective_ == 0 || roll_call_->question().number != waiting.collective_ || !one_caller()) return;
  std::vector<CallOfRank> calls = {own_call(waiting.call_, waiting.collective_)};
  bool differ = false;
  const auto& answers = roll_call_->answers();
  for (size_t rank = 0; rank < answers.size(); ++rank) {
    if (!answers[rank] || !answers[rank]->asked.is_collective() || !answers[rank]->one_caller) continue;
    calls.push_back(call_of(static_cast<int>(rank), answers[rank]->asked, waiting.collective_, *answers[rank]));
    differ = differ || !waiting.call_.agrees_with(answers[rank]->asked);
  }
  if (differ) throw Disagreement(calls);
}

void CommThread::compare_call(const RollCall::Heard::Asked& asked) const {
  const Call mine = flight_.collective(asked.question.number);
  if (!mine.is_collective() || !one_caller() || !asked.presence.one_caller || mine.agrees_with(asked.question.call)) {
    return;
  }
  throw Disagreement({own_call(mine, asked.question.number),
                      call_of(asked.rank, asked.question.call, asked.question.number, asked.presence)});
}

void CommThread::doubt(Clock::time_point now) {
  if (!roll_call_ || failure_ || active_.empty() || (now - active_[0]->submitted_ < kFirstDoubt && !left_)) return;
  if (left_ && now - left_->at > kLastWordsOfOthers) {
    throw Error(ExitCode::rank_lost,
                fmt::format("{} left the job after an error, while this rank waits in {}", watch_->place(left_->rank),
                            active_[0]->text()),
                "look at what that rank has said, then start again from the last weights");
  }
  auto found = std::find_if(active_.begin(), active_.end(), [](const auto& one) { return one->collective_ > 0; });
  if (found == active_.end()) {
    found = std::find_if(active_.begin(), active_.end(), [](const auto& one) { return one->peer() >= 0; });
  }
  if (found == active_.end() || now - (*found)->submitted_ < kFirstDoubt) return;
  const MpiOperation& waiting = **found;
  if (doubted_ != waiting.number_) {
    doubted_ = waiting.number_;
    ending_since_.reset();
    doubt_pause_ = kFirstDoubt;
    next_doubt_ = now;
  }
  if (now >= next_doubt_ && !asked_at_) {  // a new question would void the answers that a late operation waits for
    const auto longest = kLongestDoubt + std::chrono::seconds(roll_call_->answers().size() / kRanksOfASecond);
    doubt_pause_ = std::min<Clock::duration>(2 * doubt_pause_, longest);
    next_doubt_ = now + doubt_pause_;
    call_roll(now, &waiting, /*late=*/false);
    doubt_open_ = true;
  }
  if (!doubt_open_ || !roll_is_called(now)) return;
  doubt_open_ = false;
  compare_calls(waiting);
  const int peer = waiting.peer();
  if (peer < 0) return;
  const auto& there = roll_call_->answers()[static_cast<size_t>(peer)];
  if (!there || !there->ending) return;
  if (!ending_since_) ending_since_ = now;
  if (now - *ending_since_ >= kOnItsWay) {
    throw Disagreement(
        {own_call(Call::of(waiting.name_.c_str()), waiting.number_), call_of(peer, Call::of(kEndOfJob), 0, *there)});
  }
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
    call_roll(now, late->get(), /*late=*/true);
  } else if (roll_is_called(now)) {
    mpi_is_well_ = true;
    tell_missing(**late, now);
  }
}

void CommThread::tell_missing(const MpiOperation& late, Clock::time_point now) const {
  if (roll_call_) compare_calls(late);
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
      } else if (late.collective_ > 0 ? answers[rank]->collectives < late.collective_
                                      : answers[rank]->begun < late.number_) {
        const Presence& there = *answers[rank];
        behind.push_back(fmt::format("{}, which is alive but {:.1f} s in {} of step {}", place, there.seconds,
                                     there.doing[0] == '\0' ? "its own work" : there.doing, there.step));
        if (there.operation[0] != '\0') behind.back() += fmt::format(", waiting in {}", there.operation);
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

void CommThread::announce_leaving() noexcept try {
  std::unique_lock lock(mutex_, std::defer_lock);
  for (int i = 0; i < 100 && !lock.try_lock(); ++i) std::this_thread::sleep_for(milliseconds(10));
  if (!lock.owns_lock() || !roll_call_ || (failure_ && !mpi_is_well_)) return;
  roll_call_->leave();
  for (int i = 0; i < 20 && !roll_call_->all_sent(); ++i) std::this_thread::sleep_for(milliseconds(5));
} catch (...) {  // whoever is left finds out at the deadline
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
    call_roll(Clock::now(), nullptr, /*late=*/true);
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
