// MPI's work after start-up: operations are started in the order they are given and moved on by whoever has time.
#pragma once

#include <mpi.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "lockstep/error.h"
#include "world/call.h"
#include "world/flight_record.h"
#include "world/observe.h"
#include "world/roll_call.h"
#include "world/whereabouts.h"

namespace lockstep {

/// One operation of MPI, from its start to its end. CommThread calls start once and then poll until that says true, one
/// call at a time, so neither needs a lock of its own. What start and poll throw fails the operation.
class MpiOperation {
 public:
  /// `name` and `bytes` are for messages and traces. `call`: where it is a collective, which all ranks then make.
  MpiOperation(std::string name, int64_t bytes, const Call& call = {})
      : name_(std::move(name)), bytes_(bytes), call_(call) {}
  virtual ~MpiOperation() = default;
  MpiOperation(const MpiOperation&) = delete;
  MpiOperation& operator=(const MpiOperation&) = delete;

  const std::string& name() const { return name_; }
  int64_t bytes() const { return bytes_; }
  bool finished() const { return finished_.load(std::memory_order_acquire); }
  /// What failed it, or null; to be read once it has finished.
  const std::exception_ptr& error() const { return error_; }
  const Call& call() const { return call_; }
  /// "all-reduce 17 (sum of 10 float32, 40 bytes)", or the name.
  std::string text() const { return call_.is_collective() ? to_text(call_, collective_) : name_; }

 protected:
  friend class CommThread;
  virtual void start() = 0;  ///< posts the first messages; must not block
  /// Moves it on without blocking; true when it is done. Calls progressed() when some messages ended, with the number
  /// of those that came in.
  virtual bool poll() = 0;
  /// Once at the end, in any thread, with error() set or the result in place. May submit other operations.
  virtual void on_finish() {}
  virtual std::string waits_for() const { return "another rank"; }  ///< for the message of a passed deadline
  virtual int peer() const { return -1; }                           ///< of a message: the other rank
  uint64_t collective() const { return collective_; }  ///< its number among this rank's collectives, from 1; 0: none
  void progressed(size_t received) {
    progressed_ = true;
    received_ += received;
  }

 private:
  using Clock = std::chrono::steady_clock;

  std::string name_;
  int64_t bytes_;
  Call call_;
  uint64_t number_ = 0;
  uint64_t collective_ = 0;
  Clock::time_point submitted_;
  Clock::time_point deadline_ = Clock::time_point::max();
  std::exception_ptr error_;
  bool progressed_ = false;
  size_t received_ = 0;
  bool lazy_ = false;
  std::atomic<bool> finished_ = false;
};

/// A message to or from another rank, in one part or several.
class MessageOperation : public MpiOperation {
 public:
  using Post = std::function<void(std::vector<MPI_Request>&)>;  ///< adds the requests of its parts
  MessageOperation(std::string name, int64_t bytes, int peer, Post post)
      : MpiOperation(std::move(name), bytes), peer_(peer), post_(std::move(post)) {}

 protected:
  void start() override;
  bool poll() override;
  int peer() const override { return peer_; }

 private:
  int peer_;
  Post post_;
  std::vector<MPI_Request> requests_;
};

/// Open MPI moves messages on only inside calls to it, so somebody must call while the program computes. Every call of
/// MPI after start-up goes through here, one at a time:
///
/// - submit() starts an operation in the calling thread, which between hosts moves on the others meanwhile;
/// - a thread of ours moves operations on while nobody waits for them. It sleeps between looks and never spins, because
///   the core it runs on is most often the one that computes (set_spare_core);
/// - whoever waits moves them on itself, without the delay of waking another thread. It spins for a short while, then
///   sleeps.
///
/// When an operation has waited for a second, and now and then from there on, the other ranks are asked which
/// collective they make in its place (watch()): where it is another one, or a rank has left, none of them can come to
/// its end, and the error says so (Disagreement, or ExitCode::rank_lost). When a deadline has passed they are asked
/// what they do, and the error names those that are missing. After any error nothing more can be hoped for: every
/// operation under way and every later one fails with that same Error. MPI may still write to buffers of failed
/// operations, so these are never freed. Used from any thread.
class CommThread {
 public:
  /// `comm` is looked at between operations when `several_hosts`: a message that MPI calls sent may still lie in this
  /// process, waiting for a call that hands it to the network.
  CommThread(MPI_Comm comm, bool several_hosts);
  /// Stops the thread; operations under way are abandoned.
  ~CommThread();
  CommThread(const CommThread&) = delete;
  CommThread& operator=(const CommThread&) = delete;

  bool several_hosts() const { return several_hosts_; }
  /// Whether a core is free for the thread: then it looks more often.
  void set_spare_core(bool spare) { spare_core_.store(spare); }

  struct Watch {
    MPI_Comm comm;                               ///< of its own, for the roll call; alive as long as this object
    std::function<std::string(int rank)> place;  ///< such as "rank 2 on host b"
    std::function<Whereabouts::Now()> where;     ///< of this rank
    std::function<int64_t()> last_step;          ///< of this rank: Whereabouts::last_step
    std::function<void()> on_asked;              ///< another rank's deadline has passed; in any thread
  };
  /// From now on a thread of ours answers other ranks' roll calls, also while this rank computes, and operations that
  /// wait for long make them. Once, while nothing is under way.
  void watch(Watch watch);
  /// Local: tells the other ranks that this one leaves the job after an error, as far as that can be done in a moment.
  /// Never throws.
  void announce_leaving() noexcept;

  /// The last operations, as FlightRecord::json. Any thread; empty when the lock is not to be had within a second.
  std::string flight_json(const FlightRecord::Head& head);

  /// Starts `operation`. Who moves it on: the thread, while the program computes; whoever waits, the thread looking
  /// every ten milliseconds only, in case that nobody does; or nobody until wait().
  enum class Mode { beside, lazily, in_wait };
  void submit(std::shared_ptr<MpiOperation> operation, Mode mode = Mode::beside);

  /// Returns when `operation` has finished, and throws its error. False when `timeout` passed first.
  bool wait(const MpiOperation& operation, std::chrono::nanoseconds timeout = std::chrono::nanoseconds::max());
  /// Returns when `operation` has finished, well or not.
  void wait_for_end(const MpiOperation& operation);
  /// Returns when all that was submitted so far has finished, well or not.
  void wait_all();

  /// Returns when no message to or from another rank is under way; false when `timeout` passed first.
  bool wait_for_messages(std::chrono::nanoseconds timeout);

  /// submit and wait.
  void run(const std::shared_ptr<MpiOperation>& operation);

  /// Seconds an operation may take before it fails; 0: for ever. Holds for those submitted later.
  void set_deadline(double seconds) { deadline_s_.store(seconds); }
  double deadline_s() const { return deadline_s_.load(); }

  /// Somebody waits in here, or has just been told that it was in vain.
  bool speaks_for_caller() const { return waiters_.load() > 0 || failed_.load(); }

  /// Seconds that callers have spent in wait and wait_all so far.
  double waited_s() const { return static_cast<double>(waited_ns_.load()) * 1e-9; }

  /// Asks all other ranks what they do, where watch() was called, and waits about a second for answers. For a rank
  /// that waits for others elsewhere than in here, such as in a sum between GPUs. Any thread.
  struct Others {
    std::optional<Error> failure;     ///< what has failed all operations: nobody was asked any more
    std::vector<std::string> silent;  ///< places of those that do not answer
    std::string behind;  ///< "rank 1 on b, alive and in data of step 4": the first of those in an earlier step
  };
  Others ask_others();

  /// Whether MPI is as it should be at the end of a job: nothing has failed, nothing is under way.
  bool at_rest() const;
  /// What is under way, as MpiOperation::text.
  std::vector<std::string> under_way() const;
  bool failed() const { return failed_.load(); }
  /// Throws what has failed the operations, if anything has.
  void throw_failure() const;

  /// Whether all collectives so far were submitted by one thread. Then each has the same number on all ranks; with
  /// several threads their order may differ between ranks.
  bool one_caller() const { return one_caller_.load(std::memory_order_relaxed); }
  /// Collectives whose turn it is, in order, to post operations on data. For their start and poll.
  std::deque<const MpiOperation*>& turns() { return turns_; }

  void observe(CommunicationObserver observer);

 private:
  using Clock = std::chrono::steady_clock;
  using Operations = std::vector<std::shared_ptr<MpiOperation>>;

  void loop();
  struct Look {
    Operations ended;
    size_t received = 0;  // messages
    bool progress = false;
  };
  Look look(bool at_all);                                                         // under the lock
  void remove_from_active(const Operations& ended);                               // under the lock
  void fail(std::exception_ptr error, Operations& ended);                         // under the lock
  void finish(const Operations& ended);                                           // without the lock
  void start_thread();                                                            // under the lock
  void attend(Clock::time_point now);                                             // under the lock: the roll call
  void call_roll(Clock::time_point now, const MpiOperation* waiting, bool late);  // under the lock: begins or joins one
  bool roll_is_called(Clock::time_point now) const;       // under the lock: all have answered, or had the time to
  void check_deadlines(Clock::time_point now);            // under the lock: throws when one has passed
  void doubt(Clock::time_point now);                      // under the lock: throws when the ranks cannot meet
  void compare_calls(const MpiOperation& waiting) const;  // under the lock: with what the others have answered
  void compare_call(const RollCall::Heard::Asked& asked) const;  // under the lock: with what another has asked
  CallOfRank own_call(const Call& call, uint64_t number) const;
  CallOfRank call_of(int rank, const Call& call, uint64_t number, const Presence& presence) const;
  [[noreturn]] void tell_missing(const MpiOperation& late, Clock::time_point now) const;
  Presence presence(uint64_t asked) const;
  template <typename Done>
  bool drive(Done done, std::chrono::nanoseconds timeout);

  MPI_Comm comm_;
  bool several_hosts_;
  std::atomic<bool> spare_core_ = false;
  std::atomic<double> deadline_s_ = 0;
  std::atomic<int64_t> waited_ns_ = 0;
  std::atomic<int> waiters_ = 0;
  std::atomic<uint64_t> unfinished_ = 0;

  mutable std::mutex mutex_;  // held for every call of MPI
  std::condition_variable wake_;
  Operations active_;
  uint64_t submitted_ = 0;
  uint64_t collectives_ = 0;  // of these
  std::thread::id caller_;    // of the first collective
  std::atomic<bool> one_caller_ = true;
  std::deque<const MpiOperation*> turns_;
  std::exception_ptr failure_;
  bool mpi_is_well_ = false;          // in spite of the failure: it still carries answers to roll calls
  std::atomic<bool> failed_ = false;  // the same, to be read without the lock
  std::shared_ptr<CommunicationObserver> observer_;
  Clock::time_point last_end_;
  FlightRecord flight_;
  std::optional<Watch> watch_;
  std::unique_ptr<RollCall> roll_call_;
  Clock::time_point listened_;
  Clock::time_point called_;                   // the last roll call
  std::optional<Clock::time_point> asked_at_;  // since when an operation is late
  uint64_t doubted_ = 0;                       // the operation that doubt() has asked for
  Clock::duration doubt_pause_{};
  Clock::time_point next_doubt_;
  bool doubt_open_ = false;                        // its answers are awaited
  std::optional<Clock::time_point> ending_since_;  // when its other rank was first heard to have left in order
  struct Left {
    int rank;
    Clock::time_point at;
  };
  std::optional<Left> left_;  // the first rank that has left after an error
  std::atomic<bool> was_asked_ = false;
  enum class Sleep { none, short_while, until_woken } sleep_ = Sleep::none;
  bool moved_ = false;  // the last look found something done
  uint64_t looks_ = 0;
  bool stop_ = false;
  std::thread thread_;  // started with the first operation that it shall move on
};

}  // namespace lockstep
