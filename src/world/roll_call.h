// Who is there: a question that every rank's comm thread answers, whatever its main thread does. It tells a rank that
// computes for long from a process that stands still, and a rank that makes another collective from one that is late.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <functional>
#include <list>
#include <optional>
#include <utility>
#include <vector>

#include "world/call.h"

namespace lockstep {

/// What a rank says of itself. Sent as it lies in memory: all ranks are one build.
struct Presence {
  int64_t step = 0;
  int64_t last_step = 0;     ///< the last that it has named, also when it does nothing now
  double seconds = 0;        ///< in what it is doing
  uint64_t begun = 0;        ///< operations of MPI that it has begun
  uint64_t collectives = 0;  ///< of these, collectives
  bool one_caller = true;    ///< CommThread::one_caller
  bool ending = false;       ///< it has left in order and waits for the others to do so
  char doing[32] = {};       ///< empty: it does not say
  char operation[96] = {};   ///< the oldest operation it has under way, or empty
  Call asked;                ///< the collective that was asked for, where it has begun and still knows it
};

/// On a communicator of its own. Not thread-safe: the comm thread's lock covers it, as all calls of MPI.
class RollCall {
 public:
  /// What a rank that asks says of the collective it is in.
  struct Question {
    uint64_t number = 0;  ///< 0: none
    Call call;
    bool late = false;  ///< its deadline has passed
  };

  /// `self` is told the number of the collective that was asked for.
  RollCall(MPI_Comm comm, std::function<Presence(uint64_t number)> self);
  /// MPI must still be there.
  ~RollCall();
  RollCall(const RollCall&) = delete;
  RollCall& operator=(const RollCall&) = delete;

  struct Heard {
    struct Asked {
      int rank;
      Question question;
      Presence presence;
    };
    std::vector<Asked> questions;
    std::vector<int> left;  ///< ranks that leave the job after an error
  };
  /// Answers the questions that have come and takes answers. Does not block.
  Heard listen();

  /// Asks all other ranks. Answers to earlier questions count no more.
  void ask(const Question& question);
  const Question& question() const { return question_; }
  bool complete() const;  ///< every other rank has answered
  /// By rank; the own one is absent.
  const std::vector<std::optional<Presence>>& answers() const { return answers_; }
  int rank() const { return rank_; }

  /// Tells all other ranks that this one leaves after an error.
  void leave();
  /// Whether MPI has taken all that was to be sent. Does not block.
  bool all_sent();

 private:
  enum class Kind : int32_t { question, answer, leaving };
  struct Note {
    int64_t call = 0;  // counts up; an answer has that of its question
    Kind kind = Kind::question;
    Question question;
    Presence presence;
  };
  struct Outgoing {
    Note note;
    MPI_Request request = MPI_REQUEST_NULL;
  };

  void post();
  void send(int rank, const Note& note);
  void send_to_others(const Note& note);

  MPI_Comm comm_;
  std::function<Presence(uint64_t number)> self_;
  int rank_ = 0;
  Note incoming_;
  MPI_Request receive_ = MPI_REQUEST_NULL;
  std::list<Outgoing> outgoing_;
  int64_t call_ = 0;
  Question question_;
  std::vector<std::optional<Presence>> answers_;
};

}  // namespace lockstep
