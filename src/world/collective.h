// Collectives that MPI carries, each after the ranks have seen that they make the same one.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "world/call.h"
#include "world/comm_thread.h"

namespace lockstep {

/// First all ranks exchange a header that says what each makes; where they differ, every rank fails with the same
/// Disagreement. Then come the operations on data, if there are any. Headers travel in the order of submission, and so
/// do the data of several collectives under way, on a communicator of their own (or beside point-to-point messages):
/// the ranks post MPI's collectives in one order.
class Collective : public MpiOperation {
 public:
  enum class Posted { nothing, more, last };  ///< `last`: nothing comes after it; `nothing`: nor was anything posted
  /// Posts the next operation on data. `values` are those of all ranks.
  using Next = std::function<Posted(const std::vector<int64_t>& values, MPI_Request* request)>;

  /// `value` goes with the header, for whatever its kind wants to tell. Without `next` the header is all there is.
  Collective(CommThread& thread, MPI_Comm headers, const Call& call, Next next = nullptr, int64_t value = 0);

  /// By rank; once the headers are there.
  const std::vector<int64_t>& values() const { return values_; }

 protected:
  void start() override;
  bool poll() override;

 private:
  struct Header {
    uint64_t number = 0;
    int64_t value = 0;
    int64_t countable = 0;  // whether numbers can be compared (CommThread::one_caller)
    Call call;
  };
  void compare() const;

  CommThread& thread_;
  MPI_Comm comm_;
  Next next_;
  Header mine_;
  std::vector<Header> headers_;
  std::vector<int64_t> values_;
  MPI_Request request_ = MPI_REQUEST_NULL;
  bool last_ = false;
};

}  // namespace lockstep
