#include "world/collective.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "world/world_impl.h"

namespace lockstep {

Collective::Collective(CommThread& thread, MPI_Comm headers, const Call& call, Next next, int64_t value)
    : MpiOperation(call.kind, call.bytes, call), thread_(thread), comm_(headers), next_(std::move(next)) {
  mine_.value = value;
  mine_.call = call;
}

void Collective::start() {
  int size = 1;
  MPI_Comm_size(comm_, &size);
  headers_.resize(static_cast<size_t>(size));
  mine_.number = collective();
  mine_.countable = thread_.one_caller() ? 1 : 0;
  if (next_) thread_.turns().push_back(this);
  check_mpi(MPI_Iallgather(&mine_, sizeof mine_, MPI_BYTE, headers_.data(), sizeof mine_, MPI_BYTE, comm_, &request_),
            "MPI_Iallgather");
}

void Collective::compare() const {
  const auto countable = std::all_of(headers_.begin(), headers_.end(), [](const Header& one) { return one.countable; });
  const bool all_agree = std::all_of(headers_.begin(), headers_.end(), [&](const Header& one) {
    return one.call.agrees_with(headers_[0].call) && (!countable || one.number == headers_[0].number);
  });
  if (all_agree) return;
  std::vector<CallOfRank> calls;
  for (size_t rank = 0; rank < headers_.size(); ++rank) {
    const Header& one = headers_[rank];
    calls.push_back({.place = fmt::format("rank {}", rank),
                     .call = one.call,
                     .number = one.number,
                     .doing = {},
                     .last_step = one.call.is_end() ? one.value : 0});
  }
  throw Disagreement(calls);
}

bool Collective::poll() {
  for (;;) {
    if (request_ != MPI_REQUEST_NULL) {
      int done = 0;
      check_mpi(MPI_Test(&request_, &done, MPI_STATUS_IGNORE), name().c_str());
      if (done == 0) return false;
      progressed(/*received=*/1);
    }
    if (values_.empty()) {
      compare();
      for (const Header& one : headers_) values_.push_back(one.value);
    }
    if (!next_ || last_) return true;
    if (thread_.turns().front() != this) return false;
    const Posted posted = next_(values_, &request_);
    last_ = posted != Posted::more;
    if (last_) thread_.turns().pop_front();
  }
}

}  // namespace lockstep
