#include "world/roll_call.h"

#include <algorithm>
#include <utility>

#include "world/world_impl.h"

namespace lockstep {

RollCall::RollCall(MPI_Comm comm, std::function<Presence(uint64_t)> self) : comm_(comm), self_(std::move(self)) {
  int size = 1;
  MPI_Comm_rank(comm_, &rank_);
  MPI_Comm_size(comm_, &size);
  answers_.resize(static_cast<size_t>(size));
  post();
}

RollCall::~RollCall() {
  if (receive_ != MPI_REQUEST_NULL) {
    MPI_Cancel(&receive_);
    MPI_Wait(&receive_, MPI_STATUS_IGNORE);
  }
  // What was not taken yet: short notes that MPI has copied already.
  for (Outgoing& note : outgoing_) {
    if (note.request != MPI_REQUEST_NULL) MPI_Request_free(&note.request);
  }
}

void RollCall::post() {
  check_mpi(MPI_Irecv(&incoming_, sizeof incoming_, MPI_BYTE, MPI_ANY_SOURCE, 0, comm_, &receive_), "MPI_Irecv");
}

void RollCall::send(int rank, const Note& note) {
  Outgoing& out = outgoing_.emplace_back(Outgoing{note});
  check_mpi(MPI_Isend(&out.note, sizeof out.note, MPI_BYTE, rank, 0, comm_, &out.request), "MPI_Isend");
}

void RollCall::send_to_others(const Note& note) {
  for (size_t rank = 0; rank < answers_.size(); ++rank) {
    if (static_cast<int>(rank) != rank_) send(static_cast<int>(rank), note);
  }
}

RollCall::Heard RollCall::listen() {
  Heard heard;
  for (;;) {
    int done = 0;
    MPI_Status status;
    check_mpi(MPI_Test(&receive_, &done, &status), "MPI_Test");
    if (done == 0) break;
    const Note note = incoming_;
    post();
    switch (note.kind) {
      case Kind::question:
        send(status.MPI_SOURCE,
             {.call = note.call, .kind = Kind::answer, .question = {}, .presence = self_(note.question.number)});
        heard.questions.push_back({status.MPI_SOURCE, note.question, note.presence});
        break;
      case Kind::answer:
        if (note.call == call_) answers_[static_cast<size_t>(status.MPI_SOURCE)] = note.presence;
        break;
      case Kind::leaving:
        heard.left.push_back(status.MPI_SOURCE);
        break;
    }
  }
  all_sent();
  return heard;
}

bool RollCall::all_sent() {
  outgoing_.remove_if([](Outgoing& out) {
    int done = 0;
    check_mpi(MPI_Test(&out.request, &done, MPI_STATUS_IGNORE), "MPI_Test");
    return done != 0;
  });
  return outgoing_.empty();
}

void RollCall::ask(const Question& question) {
  ++call_;
  question_ = question;
  for (auto& answer : answers_) answer.reset();
  send_to_others({.call = call_, .kind = Kind::question, .question = question, .presence = self_(question.number)});
}

void RollCall::leave() { send_to_others({.call = 0, .kind = Kind::leaving, .question = {}, .presence = self_(0)}); }

bool RollCall::complete() const {
  return std::count_if(answers_.begin(), answers_.end(), [](const auto& answer) { return answer.has_value(); }) + 1 ==
         static_cast<ptrdiff_t>(answers_.size());
}

}  // namespace lockstep
