// The Works that MpiBackend returns.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <mpi.h>

#include <torch/csrc/distributed/c10d/Work.hpp>
#include <vector>

namespace lockstep {

/// An operation that is over: its future holds the result tensors. c10d's Reducer waits on that future.
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

/// A send or receive under way in `buffer`, copied to `target` at the end where they differ. The destructor waits for
/// it, since MPI goes on using the buffer.
class RequestWork final : public c10d::Work {
 public:
  RequestWork(int rank, c10d::OpType type, MPI_Request request, at::Tensor buffer, at::Tensor target);
  ~RequestWork() override;

  bool isCompleted() override;
  bool isSuccess() const override { return request_ == MPI_REQUEST_NULL; }
  bool wait(std::chrono::milliseconds timeout) override;
  std::vector<at::Tensor> result() override { return {target_}; }
  /// Waits, then gives a finished future.
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;

 private:
  void finish_request();

  MPI_Request request_;
  at::Tensor buffer_;
  at::Tensor target_;
};

}  // namespace lockstep
