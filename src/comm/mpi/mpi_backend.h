// c10d's collectives over MPI, for tensors in host memory.
#pragma once

#include <ATen/core/Tensor.h>
#include <mpi.h>

#include <atomic>
#include <mutex>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <vector>

#include "comm/mpi/allreduce.h"
#include "comm/mpi/types.h"
#include "comm/shared/board.h"
#include "world/collective.h"
#include "world/comm_thread.h"
#include "world/world_impl.h"

namespace lockstep {

/// A c10d::Backend over MPI, with any number of ranks, one included.
///
/// All-reduces and broadcasts of tensors that MPI can use in place, and sends and receives, return Works under way,
/// which the comm thread moves on (all-reduces and broadcasts with overlap only; without, those who wait do, and the
/// thread looks now and then in case that nobody does). Other operations are over when they return.
/// Tensors may have any strides: dense ones are used in place, others through a contiguous copy. A tensor belongs to
/// its operation until that is over.
/// Types: all that lie densely in host memory are moved (broadcast, all-gather, send, receive); those of
/// MpiTypes::datatype are added up. Lengths: any, in pieces of set_longest_message.
/// Collective: every rank makes the same calls in the same order with equal shapes and
/// types, and equal strides for an all-reduce. Where calls, lengths or types differ, every rank fails with an Error
/// (ExitCode::internal) that names them. Bits: an all-reduce (allreduce.h) gives the same bits on every rank,
/// whatever the transport or timing; at 1 and 2 ranks those of any correct reduction; with a power of two of ranks
/// each element is summed in the binary tree over the ranks. Errors: wrong arguments throw c10::Error; an error of
/// MPI or a passed deadline is the Work's error and its future's: Error (ExitCode::rank_lost).
class MpiBackend final : public c10d::Backend {
 public:
  using Works = c10::intrusive_ptr<c10d::Work>;

  /// `comm` carries MPI's own collectives and the caller's messages, `messages` those of our all-reduce. With `memory`,
  /// all-reduces go through it in place of messages.
  MpiBackend(MPI_Comm comm, MPI_Comm messages, int rank, int size, CommThread& thread,
             const std::shared_ptr<SharedMemory>& memory);

  const std::string getBackendName() const override { return "mpi"; }

  /// Local. Whether communication goes on beside the caller's computing. Results do not depend on it.
  void set_overlap(bool on) { overlap_ = on; }
  /// Local, alike on all ranks. Without, all-reduces end at once and leave each rank its own values: for measuring.
  void set_sending(bool on) { sending_ = on; }
  /// Local, alike on all ranks. Bytes that one of MPI's calls may carry.
  void set_longest_message(int64_t bytes) { longest_message_ = bytes; }
  /// Local. Memory where all-reduces need no copies; null when there is none (left).
  c10::DataPtr shared_memory(size_t bytes);
  /// Local. Returns when all-reduces and broadcasts under way have ended, well or not: as the Works tell, but without
  /// the time it takes to wake a thread that waits for a future.
  void finish_collectives();

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
  Works allreduce_one(at::Tensor& tensor, const c10d::ReduceOp& op);
  /// Sets an operation under way whose result is `tensors`; with Mode::in_wait it is over when this returns.
  template <typename Operation, typename... Arguments>
  Works under_way(c10d::OpType type, CommThread::Mode mode, std::vector<at::Tensor> tensors, Arguments&&... arguments);
  CommThread::Mode mode(bool in_place) const;
  /// Brings a collective to its end; `tensors` are what it works on.
  void run(const Call& call, std::vector<at::Tensor> tensors, Collective::Next next);
  Works message(c10d::OpType type, const char* name, const at::Tensor& buffer, std::vector<at::Tensor> result, int peer,
                int tag);

  MPI_Comm comm_;
  MPI_Comm messages_;
  CommThread& thread_;
  MpiTypes types_;
  std::shared_ptr<ScratchPool> pool_ = std::make_shared<ScratchPool>();
  std::shared_ptr<SharedBoard> board_;
  std::atomic<bool> overlap_ = true;
  std::atomic<bool> sending_ = true;
  std::atomic<int64_t> longest_message_ = kLongestMessage;
  std::atomic<uint32_t> next_allreduce_ = 0;
  uint32_t tags_ = 32767;
  std::mutex mutex_;
  std::vector<std::shared_ptr<MpiOperation>> under_way_;  // collectives
};

}  // namespace lockstep
