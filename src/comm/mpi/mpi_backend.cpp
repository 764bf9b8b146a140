#include "comm/mpi/mpi_backend.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <limits>

#include "comm/mpi/work.h"
#include "world/world_impl.h"

namespace lockstep {
namespace {

// MPI 3 counts in int; longer messages go in parts.
constexpr int64_t kMostElements = int64_t{1} << 30;

at::Tensor& the_one(std::vector<at::Tensor>& tensors) {
  TORCH_CHECK(tensors.size() == 1, "the MPI backend takes one tensor a call, got ", tensors.size());
  TORCH_CHECK(tensors[0].layout() == at::kStrided && tensors[0].device().is_cpu(),
              "the MPI backend takes dense tensors in host memory");
  return tensors[0];
}

// A tensor whose storage MPI may use from data_ptr() on for numel() elements.
bool in_place(const at::Tensor& tensor) { return tensor.is_non_overlapping_and_dense(); }

at::Tensor buffer_of(const at::Tensor& tensor) { return in_place(tensor) ? tensor : tensor.contiguous(); }

int whole_count(int64_t elements) {
  TORCH_CHECK(elements <= std::numeric_limits<int>::max(), "a message of ", elements, " elements is too long for MPI");
  return static_cast<int>(elements);
}

template <typename Call>
void in_parts(at::Tensor& buffer, Call call) {
  auto* data = static_cast<char*>(buffer.data_ptr());
  for (int64_t done = 0; done < buffer.numel(); done += kMostElements) {
    call(data + done * buffer.element_size(), static_cast<int>(std::min(kMostElements, buffer.numel() - done)));
  }
}

}  // namespace

MpiBackend::MpiBackend(MPI_Comm comm, int rank, int size) : Backend(rank, size), comm_(comm) {}

MpiBackend::Works MpiBackend::broadcast(std::vector<at::Tensor>& tensors, const c10d::BroadcastOptions& options) {
  at::Tensor& tensor = the_one(tensors);
  at::Tensor buffer = tensor.contiguous();  // strides may differ between ranks, the order of elements may not
  const MPI_Datatype type = types_.datatype(tensor.scalar_type());
  in_parts(buffer, [&](void* data, int count) {
    check_mpi(MPI_Bcast(data, count, type, static_cast<int>(options.rootRank), comm_), "MPI_Bcast");
  });
  if (!buffer.is_same(tensor)) tensor.copy_(buffer);
  return c10::make_intrusive<FinishedWork>(rank_, c10d::OpType::BROADCAST, tensors);
}

void MpiBackend::allreduce_one(at::Tensor& tensor, const c10d::ReduceOp& reduce_op) {
  at::Tensor buffer = buffer_of(tensor);
  const MPI_Datatype type = types_.datatype(tensor.scalar_type());
  const MPI_Op op = types_.op(reduce_op, tensor.scalar_type());
  in_parts(buffer, [&](void* data, int count) {
    check_mpi(MPI_Allreduce(MPI_IN_PLACE, data, count, type, op, comm_), "MPI_Allreduce");
  });
  if (reduce_op == c10d::ReduceOp::AVG) buffer.div_(size_);
  if (!buffer.is_same(tensor)) tensor.copy_(buffer);
}

MpiBackend::Works MpiBackend::allreduce(std::vector<at::Tensor>& tensors, const c10d::AllreduceOptions& options) {
  allreduce_one(the_one(tensors), options.reduceOp);
  return c10::make_intrusive<FinishedWork>(rank_, c10d::OpType::ALLREDUCE, tensors);
}

MpiBackend::Works MpiBackend::allreduce_coalesced(std::vector<at::Tensor>& tensors,
                                                  const c10d::AllreduceCoalescedOptions& options) {
  for (at::Tensor& tensor : tensors) allreduce_one(tensor, options.reduceOp);
  return c10::make_intrusive<FinishedWork>(rank_, c10d::OpType::ALLREDUCE_COALESCED, tensors);
}

MpiBackend::Works MpiBackend::allgather(std::vector<std::vector<at::Tensor>>& outputs, std::vector<at::Tensor>& inputs,
                                        const c10d::AllgatherOptions& options) {
  at::Tensor input = the_one(inputs).contiguous();
  TORCH_CHECK(outputs.size() == 1 && outputs[0].size() == static_cast<size_t>(size_), "all-gather wants one list of ",
              size_, " output tensors");
  std::vector<int64_t> shape = input.sizes().vec();
  shape.insert(shape.begin(), size_);
  at::Tensor gathered = at::empty(shape, input.options());
  all_gather_single(gathered, input, options);
  for (int rank = 0; rank < size_; ++rank) outputs[0][static_cast<size_t>(rank)].copy_(gathered[rank]);
  return c10::make_intrusive<FinishedWork>(rank_, c10d::OpType::ALLGATHER, outputs[0]);
}

MpiBackend::Works MpiBackend::all_gather_single(at::Tensor& output, at::Tensor& input, const c10d::AllgatherOptions&) {
  TORCH_CHECK(output.numel() == input.numel() * size_ && output.scalar_type() == input.scalar_type(),
              "the output of an all-gather holds the input's elements once for each rank");
  const at::Tensor from = input.contiguous();
  at::Tensor to = output.is_contiguous() ? output : at::empty(output.sizes(), output.options());
  const MPI_Datatype type = types_.datatype(input.scalar_type());
  const int count = whole_count(input.numel());
  check_mpi(MPI_Allgather(from.data_ptr(), count, type, to.data_ptr(), count, type, comm_), "MPI_Allgather");
  if (!to.is_same(output)) output.copy_(to);
  return c10::make_intrusive<FinishedWork>(rank_, c10d::OpType::_ALLGATHER_BASE, std::vector<at::Tensor>{output});
}

MpiBackend::Works MpiBackend::reduce_scatter(std::vector<at::Tensor>& outputs,
                                             std::vector<std::vector<at::Tensor>>& inputs,
                                             const c10d::ReduceScatterOptions& options) {
  at::Tensor& output = the_one(outputs);
  TORCH_CHECK(inputs.size() == 1 && inputs[0].size() == static_cast<size_t>(size_), "reduce-scatter wants one list of ",
              size_, " input tensors");
  at::Tensor input = at::stack(inputs[0]);
  reduce_scatter_single(output, input, options);
  return c10::make_intrusive<FinishedWork>(rank_, c10d::OpType::REDUCE_SCATTER, outputs);
}

MpiBackend::Works MpiBackend::reduce_scatter_single(at::Tensor& output, at::Tensor& input,
                                                    const c10d::ReduceScatterOptions& options) {
  TORCH_CHECK(input.numel() == output.numel() * size_ && output.scalar_type() == input.scalar_type(),
              "the input of a reduce-scatter holds the output's elements once for each rank");
  const at::Tensor from = input.contiguous();
  at::Tensor to = output.is_contiguous() ? output : at::empty(output.sizes(), output.options());
  check_mpi(MPI_Reduce_scatter_block(from.data_ptr(), to.data_ptr(), whole_count(output.numel()),
                                     types_.datatype(input.scalar_type()),
                                     types_.op(options.reduceOp, input.scalar_type()), comm_),
            "MPI_Reduce_scatter_block");
  if (options.reduceOp == c10d::ReduceOp::AVG) to.div_(size_);
  if (!to.is_same(output)) output.copy_(to);
  return c10::make_intrusive<FinishedWork>(rank_, c10d::OpType::_REDUCE_SCATTER_BASE, std::vector<at::Tensor>{output});
}

MpiBackend::Works MpiBackend::send(std::vector<at::Tensor>& tensors, int to, int tag) {
  const at::Tensor buffer = the_one(tensors).contiguous();
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Isend(buffer.data_ptr(), whole_count(buffer.numel()), types_.datatype(buffer.scalar_type()), to, tag,
                      comm_, &request),
            "MPI_Isend");
  return c10::make_intrusive<RequestWork>(rank_, c10d::OpType::SEND, request, buffer, buffer);
}

MpiBackend::Works MpiBackend::recv(std::vector<at::Tensor>& tensors, int from, int tag) {
  const at::Tensor& target = the_one(tensors);
  const at::Tensor buffer = target.is_contiguous() ? target : at::empty(target.sizes(), target.options());
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Irecv(buffer.data_ptr(), whole_count(buffer.numel()), types_.datatype(buffer.scalar_type()), from, tag,
                      comm_, &request),
            "MPI_Irecv");
  return c10::make_intrusive<RequestWork>(rank_, c10d::OpType::RECV, request, buffer, target);
}

MpiBackend::Works MpiBackend::barrier(const c10d::BarrierOptions&) {
  check_mpi(MPI_Barrier(comm_), "MPI_Barrier");
  return c10::make_intrusive<FinishedWork>(rank_, c10d::OpType::BARRIER, std::vector<at::Tensor>{});
}

}  // namespace lockstep
