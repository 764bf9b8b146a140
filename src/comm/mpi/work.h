// The Works that MpiBackend returns.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <memory>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <vector>

#include "world/comm_thread.h"

namespace lockstep {

/// An operation that is over: its future holds the result tensors.
class FinishedWork final : public c10d::Work {
 public:
  FinishedWork(int rank, c10d::OpType type, std::vector<at::Tensor> result);

  bool isCompleted() override { return true; }
  bool isSuccess() const override { return true; }
  bool wait(std::chrono::milliseconds) override { return true; }
  std::vector<at::Tensor> result() override { return result_; }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override { return future_; }

 private:
  std::vector<at::Tensor> result_;
  c10::intrusive_ptr<c10::ivalue::Future> future_;
};

/// The future that c10d's Reducer waits on, completed at the end of an operation by whichever thread ends it.
class Promise {
 public:
  explicit Promise(std::vector<at::Tensor> result);
  void complete(const std::exception_ptr& error);
  const c10::intrusive_ptr<c10::ivalue::Future>& future() const { return future_; }
  const std::vector<at::Tensor>& result() const { return result_; }

 private:
  std::vector<at::Tensor> result_;
  c10::intrusive_ptr<c10::ivalue::Future> future_;
};

/// Adds a promise to an operation.
template <typename Operation>
class Promising final : public Operation {
 public:
  template <typename... Arguments>
  Promising(std::shared_ptr<Promise> promise, Arguments&&... arguments)
      : Operation(std::forward<Arguments>(arguments)...), promise_(std::move(promise)) {}

 protected:
  void on_finish() override { promise_->complete(this->error()); }

 private:
  std::shared_ptr<Promise> promise_;
};

/// An operation under way. Dropping the Work does not stop it.
class PendingWork final : public c10d::Work {
 public:
  PendingWork(int rank, c10d::OpType type, CommThread& thread, std::shared_ptr<MpiOperation> operation,
              std::shared_ptr<Promise> promise);

  bool isCompleted() override { return operation_->finished(); }
  bool isSuccess() const override { return operation_->finished() && !operation_->error(); }
  std::exception_ptr exception() const override { return operation_->finished() ? operation_->error() : nullptr; }
  /// Throws the operation's error; c10::Error when `timeout` (0: none) passes first.
  bool wait(std::chrono::milliseconds timeout) override;
  std::vector<at::Tensor> result() override { return promise_->result(); }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override { return promise_->future(); }

 private:
  CommThread& thread_;
  std::shared_ptr<MpiOperation> operation_;
  std::shared_ptr<Promise> promise_;
};

/// A receive into `buffer`, copied by wait() to a `target` that MPI cannot fill itself.
class CopyingWork final : public c10d::Work {
 public:
  CopyingWork(c10::intrusive_ptr<c10d::Work> inner, at::Tensor buffer, at::Tensor target);

  bool isCompleted() override;
  bool isSuccess() const override { return inner_->isSuccess(); }
  bool wait(std::chrono::milliseconds timeout) override;
  std::vector<at::Tensor> result() override { return {target_}; }
  /// Waits, then gives a finished future.
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;

 private:
  c10::intrusive_ptr<c10d::Work> inner_;
  at::Tensor buffer_;
  at::Tensor target_;
  bool copied_ = false;
};

}  // namespace lockstep
