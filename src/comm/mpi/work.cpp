#include "comm/mpi/work.h"

#include <ATen/core/jit_type.h>

namespace lockstep {
namespace {

c10::intrusive_ptr<c10::ivalue::Future> new_future() {
  static const c10::TypePtr tensors = c10::ListType::create(c10::TensorType::get());
  return c10::make_intrusive<c10::ivalue::Future>(tensors);
}

}  // namespace

FinishedWork::FinishedWork(int rank, c10d::OpType type, std::vector<at::Tensor> result)
    : Work(rank, type), result_(std::move(result)), future_(new_future()) {
  future_->markCompleted(c10::IValue(result_));
}

Promise::Promise(std::vector<at::Tensor> result) : result_(std::move(result)), future_(new_future()) {}

void Promise::complete(const std::exception_ptr& error) {
  if (error) {
    future_->setError(error);
  } else {
    future_->markCompleted(c10::IValue(result_));
  }
}

PendingWork::PendingWork(int rank, c10d::OpType type, CommThread& thread, std::shared_ptr<MpiOperation> operation,
                         std::shared_ptr<Promise> promise)
    : Work(rank, type), thread_(thread), operation_(std::move(operation)), promise_(std::move(promise)) {}

bool PendingWork::wait(std::chrono::milliseconds timeout) {
  const bool in_time =
      timeout > std::chrono::milliseconds::zero() ? thread_.wait(*operation_, timeout) : thread_.wait(*operation_);
  TORCH_CHECK(in_time, operation_->name(), " was not over within ", timeout.count(), " ms");
  return true;
}

CopyingWork::CopyingWork(c10::intrusive_ptr<c10d::Work> inner, at::Tensor buffer, at::Tensor target)
    : inner_(std::move(inner)), buffer_(std::move(buffer)), target_(std::move(target)) {}

bool CopyingWork::isCompleted() {
  if (inner_->isCompleted()) wait(kNoTimeout);
  return copied_;
}

bool CopyingWork::wait(std::chrono::milliseconds timeout) {
  inner_->wait(timeout);
  if (!copied_) target_.copy_(buffer_);
  copied_ = true;
  return true;
}

c10::intrusive_ptr<c10::ivalue::Future> CopyingWork::getFuture() {
  wait(kNoTimeout);
  auto future = new_future();
  future->markCompleted(c10::IValue(std::vector<at::Tensor>{target_}));
  return future;
}

}  // namespace lockstep
