// How an error reaches the person and ends the job, from any thread.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "lockstep/error.h"

namespace lockstep {

class World;

/// Writes "lockstep: error: …" and "hint: …" to stderr in one piece. `where` (such as "rank 1 on host a") may be empty.
void print_error(const Error& error, const std::string& where);

/// Writes "lockstep: warning: …" and, if there is one, "hint: …" to stderr.
void print_warning(const std::string& what, const std::string& hint);

/// "rank 1 on host a"; empty in a job of one rank.
std::string place_of(const World& world);

/// Local: for an error that all ranks of a host may meet at once, before it is told. The lowest rank comes back at
/// once, and the end that it brings reaches the others while they are here, for a second or two.
void let_lower_ranks_speak(int rank);

/// Local, in any thread: prints the error with this rank and host and ends the whole job with its code. The first
/// caller speaks; another waits for the end that the first one brings.
[[noreturn]] void end_job(World& world, const Error& error) noexcept;

/// Local: what nobody caught, in whatever thread it was thrown, ends the job like any other error. PyTorch's watchdog
/// of NCCL throws in a thread of its own when a collective fails or takes too long, which would otherwise be an abort
/// without a word of ours. `describe` turns the exception in flight into an Error. Undone by the destructor; one at a
/// time.
class LastWords {
 public:
  LastWords(World& world, std::function<Error()> describe);
  ~LastWords();
  LastWords(const LastWords&) = delete;
  LastWords& operator=(const LastWords&) = delete;
};

/// Local: calls `passed` in a thread of its own when it lives longer than `seconds` (0: for ever). For calls that
/// cannot be given a deadline: the start of a communicator, its end when a peer may be gone, the end of MPI.
class TimeLimit {
 public:
  TimeLimit(double seconds, std::function<void()> passed);
  TimeLimit(World& world, double seconds, Error error);  ///< ends the job with the error
  ~TimeLimit();
  TimeLimit(const TimeLimit&) = delete;
  TimeLimit& operator=(const TimeLimit&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable over_;
  bool done_ = false;
  std::thread thread_;
};

}  // namespace lockstep
