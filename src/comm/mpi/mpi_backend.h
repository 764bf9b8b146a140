// c10d's collectives over MPI, for tensors in host memory.
#pragma once

#include <ATen/core/Tensor.h>
#include <mpi.h>

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <vector>

#include "comm/mpi/types.h"

namespace lockstep {

/// A c10d::Backend over an MPI communicator, which it borrows. Works with any number of ranks, one included.
///
/// Collectives block in the calling thread and return finished Works; send and recv return Works that finish in wait().
/// Tensors may have any strides: dense ones are used in place, others through a contiguous copy.
/// Types: MpiTypes::datatype. Collective: every rank makes the same calls in the same order with equal shapes and
/// types. Bits: an all-reduce gives the same bits on every rank, and at 1 and 2 ranks those of any correct reduction.
/// Errors: wrong arguments throw c10::Error; an error of MPI throws Error (ExitCode::rank_lost).
class MpiBackend final : public c10d::Backend {
 public:
  using Works = c10::intrusive_ptr<c10d::Work>;

  MpiBackend(MPI_Comm comm, int rank, int size);

  const std::string getBackendName() const override { return "mpi"; }

  Works broadcast(std::vector<at::Tensor>& tensors, const c10d::BroadcastOptions& options) override;
  Works allreduce(std::vector<at::Tensor>& tensors, const c10d::AllreduceOptions& options) override;
  Works allreduce_coalesced(std::vector<at::Tensor>& tensors, const c10d::AllreduceCoalescedOptions& options) override;
  /// outputs: one list of `size` tensors shaped like the one input.
  Works allgather(std::vector<std::vector<at::Tensor>>& outputs, std::vector<at::Tensor>& inputs,
                  const c10d::AllgatherOptions& options) override;
  /// output: `size` times the elements of input, in rank order.
  Works all_gather_single(at::Tensor& output, at::Tensor& input, const c10d::AllgatherOptions& options) override;
  /// inputs: one list of `size` tensors shaped like the one output.
  Works reduce_scatter(std::vector<at::Tensor>& outputs, std::vector<std::vector<at::Tensor>>& inputs,
                       const c10d::ReduceScatterOptions& options) override;
  /// input: `size` times the elements of output, in rank order.
  Works reduce_scatter_single(at::Tensor& output, at::Tensor& input,
                              const c10d::ReduceScatterOptions& options) override;
  Works send(std::vector<at::Tensor>& tensors, int to, int tag) override;
  Works recv(std::vector<at::Tensor>& tensors, int from, int tag) override;
  Works barrier(const c10d::BarrierOptions& options) override;

 private:
  void allreduce_one(at::Tensor& tensor, const c10d::ReduceOp& op);

  MPI_Comm comm_;
  MpiTypes types_;
};

}  // namespace lockstep
