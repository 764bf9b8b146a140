#include "world/comm_thread.h"

#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>

#include <algorithm>
#include <utility>

#include "lockstep/error.h"
#include "world/world_impl.h"

namespace lockstep {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

// Between two looks at MPI beside a computing thread. A look takes 50 to 100 µs from the computing thread, caches
// included, and sockets take in megabytes without help. So the pause follows the link: it grows after a look that found
// fewer than a few messages and shrinks after one that found many (at 1 Gbit/s one of 256 kB takes 2 ms). The longest
// may be long, since whoever submits an operation looks, too.
constexpr microseconds kShortestPause{50};
constexpr microseconds kLongestPause{12000};
constexpr microseconds kLongestPauseOnSpareCore{500};
constexpr size_t kFewMessages = 3;
constexpr size_t kManyMessages = 6;
// The same where somebody will wait soon and move all on by himself.
constexpr milliseconds kLazyPause{10};
// A waiting thread spins this long without progress before it sleeps between looks, then sleeps for a part of the time
// it has waited.
constexpr microseconds kSpin{1000};
constexpr microseconds kLongestSleep{500};
// How long MPI is looked at when nothing is under way, with several hosts. The first look is soon, in case that a rank
// waits for what did not fit into a socket at the end; each later pause is as long as nothing has been under way, up to
// kLongestPause. A look every 500 µs took 5 to 8 ms from the next step.
constexpr milliseconds kLinger{50};
constexpr microseconds kFirstLingerPause{500};
// How often questions of other ranks are looked for, when nothing else is to be done.
constexpr milliseconds kListenIdle{200};

// Where operations that failed end: MPI may go on writing to their buffers, so they are kept for as long as the process
// lives.
void keep_for_ever(const std::vector<std::shared_ptr<MpiOperation>>& operations) {
  static auto* kept = new std::vector<std::shared_ptr<MpiOperation>>;
  kept->insert(kept->end(), operations.begin(), operations.end());
}

}  // namespace

void MessageOperation::start() { post_(requests_); }

bool MessageOperation::poll() {
  int done = 0;
  check_mpi(MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done, MPI_STATUSES_IGNORE),
            name().c_str());
  if (done != 0) progressed(/*received=*/1);
  return done != 0;
}

CommThread::CommThread(MPI_Comm comm, bool several_hosts) : comm_(comm), several_hosts_(several_hosts) {}

CommThread::~CommThread() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    if (!active_.empty()) keep_for_ever(active_);
    active_.clear();
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (finalized != 0) static_cast<void>(roll_call_.release());  // its requests went with MPI
}

void CommThread::submit(std::shared_ptr<MpiOperation> operation, Mode mode) {
  Operations ended;
  bool wake = false;
  unfinished_.fetch_add(1);
  {
    const std::lock_guard lock(mutex_);
    operation->number_ = ++submitted_;
    if (operation->call_.is_collective()) {
      operation->collective_ = ++collectives_;
      if (collectives_ == 1) caller_ = std::this_thread::get_id();
      if (caller_ != std::this_thread::get_id()) one_caller_.store(false, std::memory_order_relaxed);
    }
    operation->lazy_ = mode == Mode::lazily;
    operation->submitted_ = Clock::now();
    if (const double seconds = deadline_s_.load(); seconds > 0) {
      operation->deadline_ =
          operation->submitted_ + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    }
    active_.push_back(operation);
    flight_.begun(operation->number_, operation->name_, operation->bytes_,
                  watch_ ? watch_->where() : Whereabouts::Now{}, operation->submitted_, operation->collective_,
                  operation->call_);
    if (failure_) {
      fail(failure_, ended);
    } else {
      try {
        operation->start();
      } catch (...) {
        fail(std::current_exception(), ended);
      }
      // The messages just sent have warmed MPI up for this thread: a look costs less here than in the other one.
      if (several_hosts_ && mode != Mode::in_wait && active_.size() > 1) ended = look(/*at_all=*/true).ended;
    }
    if (mode != Mode::in_wait && !active_.empty()) {
      start_thread();
      wake = sleep_ == Sleep::until_woken || (sleep_ == Sleep::short_while && mode == Mode::beside);
    }
  }
  if (wake) wake_.notify_one();
  finish(ended);
}

CommThread::Look CommThread::look(bool at_all) {
  Look found;
  try {
    for (const auto& operation : active_) {
      if (operation->poll()) found.ended.push_back(operation);
      found.progress |= std::exchange(operation->progressed_, false);
      found.received += std::exchange(operation->received_, 0);
      if (!at_all) break;
    }
    found.progress |= !found.ended.empty();
    const auto now = Clock::now();
    if (!found.ended.empty()) {
      remove_from_active(found.ended);
      for (const auto& operation : found.ended) flight_.ended(operation->number_, true, now);
      last_end_ = now;
    }
    attend(now);
    doubt(now);
    check_deadlines(now);
  } catch (...) {
    fail(std::current_exception(), found.ended);
  }
  return found;
}

void CommThread::remove_from_active(const Operations& ended) {
  std::erase_if(active_,
                [&](const auto& operation) { return std::find(ended.begin(), ended.end(), operation) != ended.end(); });
}

void CommThread::fail(std::exception_ptr error, Operations& ended) {
  if (!failure_) {
    try {
      std::rethrow_exception(error);
    } catch (const Disagreement&) {
      mpi_is_well_ = true;
    } catch (...) {
    }
  }
  failure_ = std::move(error);
  failed_ = true;
  remove_from_active(ended);
  for (const auto& operation : active_) {
    operation->error_ = failure_;
    flight_.ended(operation->number_, false, Clock::now());
  }
  keep_for_ever(active_);
  ended.insert(ended.end(), active_.begin(), active_.end());
  active_.clear();
}

void CommThread::start_thread() {
  if (!thread_.joinable()) thread_ = std::thread([this] { loop(); });
}

void CommThread::watch(Watch watch) {
  const std::lock_guard lock(mutex_);
  watch_ = std::move(watch);
  roll_call_ = std::make_unique<RollCall>(watch_->comm, [this](uint64_t asked) { return presence(asked); });
  start_thread();
}

std::string CommThread::flight_json(const FlightRecord::Head& head) {
  std::unique_lock lock(mutex_, std::defer_lock);
  for (int i = 0; i < 100 && !lock.try_lock(); ++i) std::this_thread::sleep_for(milliseconds(10));
  return lock.owns_lock() ? flight_.json(head, Clock::now()) : "";
}

void CommThread::finish(const Operations& ended) {
  if (was_asked_.load(std::memory_order_relaxed) && was_asked_.exchange(false)) watch_->on_asked();
  if (ended.empty()) return;
  std::shared_ptr<CommunicationObserver> observer;
  {
    const std::lock_guard lock(mutex_);
    observer = observer_;
  }
  for (const auto& operation : ended) {
    if (observer) (*observer)(operation->name_, operation->bytes_, operation->submitted_, Clock::now());
    operation->on_finish();
    operation->finished_.store(true, std::memory_order_release);
    unfinished_.fetch_sub(1);
  }
}

template <typename Done>
bool CommThread::drive(Done done, std::chrono::nanoseconds timeout) {
  if (done()) return true;
  const auto started = Clock::now();
  auto moved = started;
  waiters_.fetch_add(1);
  bool in_time = true;
  while (!done()) {
    Look found;
    if (mutex_.try_lock()) {
      // Several looks at a time: giving up the core between two of them costs more than they do. A look at an operation
      // of messages moves all of MPI's on, at the price of some system calls, so most are at the first operation only.
      // All come in turn, since one may wait for what a later one brings about, and some need no MPI.
      for (int i = 0; i < 16 && !found.progress && found.ended.empty(); ++i) {
        found = look(/*at_all=*/moved_ || ++looks_ % 4 == 0);
        moved_ = found.progress;
      }
      mutex_.unlock();
    }
    finish(found.ended);
    const auto now = Clock::now();
    if (found.progress || !found.ended.empty()) {
      moved = now;
      continue;
    }
    if (now - started > timeout) {
      in_time = false;
      break;
    }
    if (now - moved < kSpin) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(std::min<Clock::duration>((now - moved) / 50, kLongestSleep));
    }
  }
  waited_ns_.fetch_add(std::chrono::nanoseconds(Clock::now() - started).count());
  if (waiters_.fetch_sub(1) == 1 && unfinished_.load() > 0) wake_.notify_one();
  return in_time;
}

bool CommThread::wait(const MpiOperation& operation, std::chrono::nanoseconds timeout) {
  if (!drive([&] { return operation.finished(); }, timeout)) return false;
  if (operation.error()) std::rethrow_exception(operation.error());
  return true;
}

void CommThread::wait_for_end(const MpiOperation& operation) {
  drive([&] { return operation.finished(); }, std::chrono::nanoseconds::max());
}

void CommThread::wait_all() {
  drive([&] { return unfinished_.load() == 0; }, std::chrono::nanoseconds::max());
}

bool CommThread::wait_for_messages(std::chrono::nanoseconds timeout) {
  const auto none = [&] {
    const std::lock_guard lock(mutex_);
    return std::none_of(active_.begin(), active_.end(), [](const auto& operation) { return operation->peer() >= 0; });
  };
  return drive(none, timeout);
}

void CommThread::run(const std::shared_ptr<MpiOperation>& operation) {
  submit(operation, Mode::in_wait);
  wait(*operation);
}

bool CommThread::at_rest() const {
  const std::lock_guard lock(mutex_);
  return failure_ == nullptr && active_.empty();
}

std::vector<std::string> CommThread::under_way() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> texts;
  for (const auto& operation : active_) texts.push_back(operation->text());
  return texts;
}

void CommThread::throw_failure() const {
  const std::lock_guard lock(mutex_);
  if (failure_) std::rethrow_exception(failure_);
}

void CommThread::observe(CommunicationObserver observer) {
  const std::lock_guard lock(mutex_);
  observer_ = observer ? std::make_shared<CommunicationObserver>(std::move(observer)) : nullptr;
}

void CommThread::loop() {
  pthread_setname_np(pthread_self(), "lockstep-comm");
  prctl(PR_SET_TIMERSLACK, 1000UL);  // ns; the default would make each sleep 50 µs longer
  microseconds pause = kShortestPause;
  uint64_t seen = 0;  // operations submitted until the last lazy sleep
  std::unique_lock lock(mutex_);
  while (!stop_) {
    const bool lazy = waiters_.load() == 0 && std::all_of(active_.begin(), active_.end(),
                                                          [](const auto& operation) { return operation->lazy_; });
    if (lazy && (!active_.empty() || (submitted_ != seen && !several_hosts_))) {
      // Also when nothing is under way but was a moment ago: to be woken for every operation would cost more than it.
      seen = submitted_;
      sleep_ = Sleep::short_while;
      wake_.wait_for(lock, kLazyPause);
      sleep_ = Sleep::none;
      if (stop_ || active_.empty() || waiters_.load() > 0) continue;
      const Operations ended = look(/*at_all=*/true).ended;
      lock.unlock();
      finish(ended);
      lock.lock();
    } else if (active_.empty()) {
      sleep_ = Sleep::until_woken;
      const auto idle = Clock::now() - last_end_;
      if (several_hosts_ && !failure_ && idle < kLinger) {
        wake_.wait_for(lock, std::clamp<Clock::duration>(idle, kFirstLingerPause, kLongestPause));
        int there = 0;
        if (!stop_ && active_.empty()) MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm_, &there, MPI_STATUS_IGNORE);
      } else if (roll_call_ && (!failure_ || mpi_is_well_)) {
        wake_.wait_for(lock, kListenIdle);
      } else {
        wake_.wait(lock);
      }
      sleep_ = Sleep::none;
      if (!stop_ && roll_call_ && active_.empty()) {
        const Operations ended = look(/*at_all=*/true).ended;
        lock.unlock();
        finish(ended);
        lock.lock();
      }
    } else if (waiters_.load() > 0) {
      wake_.wait_for(lock, milliseconds(1));  // they look
    } else {
      const Look found = look(/*at_all=*/true);
      lock.unlock();
      finish(found.ended);
      const microseconds longest = spare_core_.load() ? kLongestPauseOnSpareCore : kLongestPause;
      if (found.received < kFewMessages) pause = std::min(pause * 3 / 2, longest);
      if (found.received >= kManyMessages) pause = std::max(pause * 3 / 5, kShortestPause);
      std::this_thread::sleep_for(pause);
      lock.lock();
    }
  }
}

}  // namespace lockstep
