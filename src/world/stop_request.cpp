#include "world/stop_request.h"

#include <unistd.h>

#include <atomic>
#include <ctime>

namespace lockstep {
namespace {

constexpr int64_t kSameRequest_ms = 500;

// Written in a signal handler: lock-free atomics only.
std::atomic<int64_t> requested = StopRequest::none;
std::atomic<int64_t> first_ms = 0;
std::atomic<bool> terminated = false;
std::atomic<bool> at_a_terminal = false;
std::atomic<int> alive = 0;
static_assert(std::atomic<int64_t>::is_always_lock_free);

int64_t now_ms() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);  // safe in a handler
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

extern "C" void note_request(int signal) {
  const int64_t now = now_ms();
  if (signal == SIGTERM) terminated = true;
  int64_t first = 0;
  if (first_ms.compare_exchange_strong(first, now)) {
    requested = signal == SIGINT && at_a_terminal ? StopRequest::interrupt : StopRequest::asked;
  } else if (now - first > kSameRequest_ms) {
    _exit(128 + signal);
  }
}

}  // namespace

StopRequest::StopRequest() {
  if (alive++ > 0) return;
  requested = none;
  first_ms = 0;
  at_a_terminal = isatty(STDIN_FILENO) == 1;
  struct sigaction action = {};
  action.sa_handler = &note_request;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &action, &before_[i]);
}

StopRequest::~StopRequest() {
  if (--alive > 0) return;
  for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before_[i], nullptr);
}

void StopRequest::let_through() {
  sigset_t held;
  sigemptyset(&held);
  for (const int signal : kSignals) sigaddset(&held, signal);
  pthread_sigmask(SIG_UNBLOCK, &held, nullptr);
}

bool StopRequest::came_as_term() { return terminated; }

StopRequest::Value StopRequest::value() { return static_cast<Value>(requested.load()); }

}  // namespace lockstep
