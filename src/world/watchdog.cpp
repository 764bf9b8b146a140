#include "world/watchdog.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <pthread.h>

#include <algorithm>
#include <chrono>

#include "world/last_words.h"
#include "world/world_impl.h"

namespace lockstep {
namespace {

// What the comm thread needs for a roll call and for the end of the job.
constexpr double kGraceWhileWaiting_s = 10;
// A look that comes this much too late: the process itself stood still. Others have missed it by then and say so.
constexpr double kStoodStill_s = 1;

}  // namespace

Watchdog::Watchdog(World& world) : world_(world), thread_([this] { loop(); }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void Watchdog::loop() {
  pthread_setname_np(pthread_self(), "lockstep-watch");
  using Clock = std::chrono::steady_clock;
  std::unique_lock lock(mutex_);
  Clock::time_point silent_until;
  while (!stop_) {
    CommThread& comm = *world_.impl().comm_thread;
    const auto before = Clock::now();
    const double deadline = comm.deadline_s();
    const double look = deadline > 0 ? std::clamp(deadline / 20, 0.02, 1.0) : 1.0;
    wake_.wait_for(lock, std::chrono::duration<double>(look));
    if (std::chrono::duration<double>(Clock::now() - before).count() > look + kStoodStill_s) {
      silent_until = Clock::now() + std::chrono::seconds(5);
    }
    if (Clock::now() < silent_until) continue;
    const Whereabouts::Now now = world_.impl().where.now();
    const double most = comm.deadline_s() + (comm.speaks_for_caller() ? kGraceWhileWaiting_s : 0);
    if (stop_ || comm.deadline_s() <= 0 || now.doing == nullptr || now.seconds < most) continue;
    lock.unlock();
    std::this_thread::sleep_for(std::chrono::milliseconds(100) * std::min(world_.rank(), 20));  // one speaks
    const CommThread::Others others = comm.ask_others();
    lock.lock();
    // Meanwhile it may have gone on.
    const Whereabouts::Now then = world_.impl().where.now();
    if (stop_ || then.doing != now.doing || then.step != now.step || then.seconds < now.seconds) continue;
    if (others.failure) end_job(world_, *others.failure);
    std::string what =
        fmt::format("{} of step {} has taken {:.1f} s, longer than the deadline", now.doing, now.step, now.seconds);
    std::string hint =
        "if it is only slow, raise watch.deadline_s; else look at what holds it up (disk, device), "
        "then start again with --resume auto";
    if (!others.silent.empty()) {
      what += fmt::format("; no answer from {}", fmt::join(others.silent, " and "));
      hint = "it stands still, is dead or cut off: look at it and its host, then start again with --resume auto";
    } else if (!others.behind.empty()) {
      what += "; behind is " + others.behind;
    }
    end_job(world_, Error(ExitCode::rank_lost, what, hint));
  }
}

}  // namespace lockstep
