// Who is there: a question that every rank's comm thread answers, whatever its main thread does. It tells a rank that
// computes for long from a process that stands still.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <functional>
#include <list>
#include <optional>
#include <vector>

namespace lockstep {

/// What a rank says of itself. Sent as it lies in memory: all ranks are one build.
struct Presence {
  int64_t step = 0;
  double seconds = 0;       ///< in what it is doing
  uint64_t begun = 0;       ///< operations of MPI that it has begun
  char doing[32] = {};      ///< empty: it does not say
  char operation[48] = {};  ///< the oldest operation it has under way, or empty
};

/// On a communicator of its own. Not thread-safe: the comm thread's lock covers it, as all calls of MPI.
class RollCall {
 public:
  RollCall(MPI_Comm comm, std::function<Presence()> self);
  /// MPI must still be there.
  ~RollCall();
  RollCall(const RollCall&) = delete;
  RollCall& operator=(const RollCall&) = delete;

  /// Answers the questions that have come and takes answers. True when somebody asked. Does not block.
  bool listen();

  /// Asks all other ranks. Answers to earlier questions count no more.
  void ask();
  bool complete() const;  ///< every other rank has answered
  /// By rank; the own one is absent.
  const std::vector<std::optional<Presence>>& answers() const { return answers_; }

 private:
  struct Note {
    int64_t call = 0;  // counts up; an answer has that of its question
    bool answer = false;
    Presence presence;
  };
  struct Outgoing {
    Note note;
    MPI_Request request = MPI_REQUEST_NULL;
  };

  void post();
  void send(int rank, const Note& note);

  MPI_Comm comm_;
  std::function<Presence()> self_;
  int rank_ = 0;
  Note incoming_;
  MPI_Request receive_ = MPI_REQUEST_NULL;
  std::list<Outgoing> outgoing_;
  int64_t call_ = 0;
  std::vector<std::optional<Presence>> answers_;
};

}  // namespace lockstep
