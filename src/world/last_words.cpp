#include "world/last_words.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <exception>
#include <memory>
#include <utility>

#include "lockstep/world.h"
#include "world/stop_request.h"
#include "world/world_impl.h"

namespace lockstep {
namespace {

struct Listener {
  World& world;
  std::function<Error()> describe;
};
std::atomic<Listener*> listener = nullptr;
std::terminate_handler before = nullptr;

[[noreturn]] void last_words() {
  const Listener* const mine = listener.load();
  if (mine != nullptr && std::current_exception()) {
    try {
      throw;
    } catch (...) {
      end_job(mine->world, mine->describe());
    }
  }
  if (before != nullptr) before();
  std::abort();
}

}  // namespace

void print_error(const Error& error, const std::string& where) {
  std::fflush(stdout);
  const std::string hint = error.hint().empty()
                               ? "run again; if it stays, report it with this message and `lockstep --version`"
                               : error.hint();
  const std::string text =
      fmt::format("lockstep: error: {}{}{}\nhint: {}\n", where, where.empty() ? "" : ": ", error.what(), hint);
  // One write, so that lines of other ranks do not come between; there is nothing to do when stderr is gone.
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text.data(), text.size());
}

void print_warning(const std::string& what, const std::string& hint) {
  std::fflush(stdout);
  std::string text = fmt::format("lockstep: warning: {}\n", what);
  if (!hint.empty()) text += fmt::format("hint: {}\n", hint);
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text.data(), text.size());
}

std::string place_of(const World& world) {
  return world.size() > 1 ? fmt::format("rank {} on {}", world.rank(), world.host()) : "";
}

void let_lower_ranks_speak(int rank) {
  if (rank == 0) return;
  // mpirun's SIGTERM comes a second after it knows of an end, and a rank that trains only notes it.
  std::this_thread::sleep_for(std::chrono::milliseconds(1500 + 100 * std::min(rank, 20)));
  if (StopRequest::came_as_term()) std::this_thread::sleep_for(std::chrono::seconds(2));
}

void end_job(World& world, const Error& error) noexcept {
  static std::atomic<bool> spoken = false;
  if (spoken.exchange(true)) {
    for (;;) std::this_thread::sleep_for(std::chrono::seconds(1));
  }
  if (error.code() == ExitCode::rank_lost && StopRequest::came_as_term()) {
    // Another rank's end is already told, and this rank's end is under way: two seconds would be long for it.
    std::this_thread::sleep_for(std::chrono::seconds(2));
  }
  print_error(error, place_of(world));
  world.impl().write_flight(error.what());
  world.abort(static_cast<int>(error.code()));
}

LastWords::LastWords(World& world, std::function<Error()> describe) {
  listener = new Listener{world, std::move(describe)};
  before = std::set_terminate(&last_words);
}

LastWords::~LastWords() {
  std::set_terminate(before);
  // Never freed: a thread may be speaking at this moment.
  listener = nullptr;
}

TimeLimit::TimeLimit(double seconds, std::function<void()> passed) {
  if (seconds <= 0) return;
  thread_ = std::thread([this, seconds, passed = std::move(passed)] {
    std::unique_lock lock(mutex_);
    if (!over_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return done_; })) passed();
  });
}

TimeLimit::TimeLimit(World& world, double seconds, Error error)
    : TimeLimit(seconds, [&world, error = std::move(error)] { end_job(world, error); }) {}

TimeLimit::~TimeLimit() {
  {
    const std::lock_guard lock(mutex_);
    done_ = true;
  }
  over_.notify_all();
  if (thread_.joinable()) thread_.join();
}

}  // namespace lockstep
