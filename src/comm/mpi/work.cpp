#include "comm/mpi/work.h"

#include <ATen/core/jit_type.h>

#include "world/world_impl.h"

namespace lockstep {
namespace {

c10::intrusive_ptr<c10::ivalue::Future> finished_future(const std::vector<at::Tensor>& tensors) {
  auto future = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()));
  future->markCompleted(c10::IValue(tensors));
  return future;
}

}  // namespace

FinishedWork::FinishedWork(int rank, c10d::OpType type, std::vector<at::Tensor> result)
    : Work(rank, type), result_(std::move(result)), future_(finished_future(result_)) {}

RequestWork::RequestWork(int rank, c10d::OpType type, MPI_Request request, at::Tensor buffer, at::Tensor target)
    : Work(rank, type), request_(request), buffer_(std::move(buffer)), target_(std::move(target)) {}

RequestWork::~RequestWork() {
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (finalized == 0 && request_ != MPI_REQUEST_NULL) MPI_Wait(&request_, MPI_STATUS_IGNORE);
}

bool RequestWork::isCompleted() {
  if (request_ == MPI_REQUEST_NULL) return true;
  int done = 0;
  check_mpi(MPI_Test(&request_, &done, MPI_STATUS_IGNORE), "MPI_Test");
  if (done != 0) finish_request();
  return done != 0;
}

bool RequestWork::wait(std::chrono::milliseconds) {
  if (request_ != MPI_REQUEST_NULL) {
    check_mpi(MPI_Wait(&request_, MPI_STATUS_IGNORE), "MPI_Wait");
    finish_request();
  }
  return true;
}

c10::intrusive_ptr<c10::ivalue::Future> RequestWork::getFuture() {
  wait(kNoTimeout);
  return finished_future({target_});
}

void RequestWork::finish_request() {
  if (!target_.is_same(buffer_)) target_.copy_(buffer_);
}

}  // namespace lockstep
