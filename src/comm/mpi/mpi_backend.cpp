#include "comm/mpi/mpi_backend.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <limits>

#include "comm/mpi/work.h"
#include "comm/shared/allreduce.h"
#include "world/world_impl.h"

namespace lockstep {
namespace {

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

}  // namespace

MpiBackend::MpiBackend(MPI_Comm comm, MPI_Comm messages, int rank, int size, CommThread& thread,
                       const std::shared_ptr<SharedMemory>& memory)
    : Backend(rank, size),
      comm_(comm),
      messages_(messages),
      thread_(thread),
      board_(memory ? std::make_shared<SharedBoard>(memory) : nullptr) {
  int* most = nullptr;
  int given = 0;
  MPI_Comm_get_attr(messages, MPI_TAG_UB, &most, &given);
  if (given != 0) tags_ = static_cast<uint32_t>(*most);
}

template <typename Operation, typename... Arguments>
MpiBackend::Works MpiBackend::under_way(c10d::OpType type, CommThread::Mode mode, std::vector<at::Tensor> tensors,
                                        Arguments&&... arguments) {
  auto promise = std::make_shared<Promise>(std::move(tensors));
  auto operation = std::make_shared<Promising<Operation>>(promise, std::forward<Arguments>(arguments)...);
  auto work = c10::make_intrusive<PendingWork>(rank_, type, thread_, operation, promise);
  thread_.submit(operation, mode);
  if (mode == CommThread::Mode::in_wait) {
    thread_.wait_for_end(*operation);
  } else if (!c10d::isP2POp(type)) {
    const std::lock_guard lock(mutex_);
    if (under_way_.size() > 256) std::erase_if(under_way_, [](const auto& other) { return other->finished(); });
    under_way_.push_back(operation);
  }
  return work;
}

CommThread::Mode MpiBackend::mode(bool in_place) const {
  if (!in_place) return CommThread::Mode::in_wait;
  return overlap_ ? CommThread::Mode::beside : CommThread::Mode::lazily;
}

c10::DataPtr MpiBackend::shared_memory(size_t bytes) { return board_ ? board_->memory().take(bytes) : c10::DataPtr(); }

void MpiBackend::finish_collectives() {
  std::vector<std::shared_ptr<MpiOperation>> operations;
  {
    const std::lock_guard lock(mutex_);
    operations.swap(under_way_);
  }
  for (const auto& operation : operations) thread_.wait_for_end(*operation);
}

void MpiBackend::run(const char* name, std::vector<at::Tensor> tensors, RequestOperation::Post post) {
  int64_t bytes = 0;
  for (const at::Tensor& tensor : tensors) bytes += tensor.numel() * tensor.element_size();
  // The tensors go with the operation: MPI may write to them even after it failed.
  thread_.run(std::make_shared<RequestOperation>(
      name, bytes,
      [post = std::move(post), tensors = std::move(tensors)](MPI_Request* request) { return post(request); }));
}

MpiBackend::Works MpiBackend::broadcast(std::vector<at::Tensor>& tensors, const c10d::BroadcastOptions& options) {
  at::Tensor& tensor = the_one(tensors);
  at::Tensor buffer = tensor.contiguous();  // strides may differ between ranks, the order of elements may not
  const bool same = buffer.is_same(tensor);
  const auto work = under_way<RequestOperation>(
      c10d::OpType::BROADCAST, mode(same), tensors, "broadcast", buffer.numel() * buffer.element_size(),
      [buffer, count = whole_count(buffer.numel()), type = types_.datatype(tensor.scalar_type()),
       root = static_cast<int>(options.rootRank),
       comm = comm_](MPI_Request* request) { return MPI_Ibcast(buffer.data_ptr(), count, type, root, comm, request); });
  if (!same && work->isSuccess()) tensor.copy_(buffer);
  return work;
}

MpiBackend::Works MpiBackend::allreduce_one(at::Tensor& tensor, const c10d::ReduceOp& reduce_op) {
  if (size_ == 1 || !sending_) {            // the comm thread has nothing to wait for: not even its waking is paid for
    types_.datatype(tensor.scalar_type());  // what MPI cannot do is refused as with more ranks
    types_.op(reduce_op, tensor.scalar_type());
    return c10::make_intrusive<FinishedWork>(rank_, c10d::OpType::ALLREDUCE, std::vector<at::Tensor>{tensor});
  }
  at::Tensor buffer = buffer_of(tensor);
  const bool divide = reduce_op == c10d::ReduceOp::AVG;
  const bool same = buffer.is_same(tensor);
  const MPI_Datatype type = types_.datatype(tensor.scalar_type());
  const MPI_Op op = types_.op(reduce_op, tensor.scalar_type());
  const bool integral = c10::isIntegralType(tensor.scalar_type(), /*includeBool=*/false);
  const bool of_order = reduce_op == c10d::ReduceOp::MIN || reduce_op == c10d::ReduceOp::MAX;
  const CommThread::Mode how = mode(same && !divide);
  const auto work =
      board_ ? under_way<SharedAllreduce>(
                   c10d::OpType::ALLREDUCE, how, {tensor},
                   SharedAllreduce::Options{
                       .buffer = buffer,
                       .type = type,
                       .op = op,
                       .comm = messages_,
                       .op_name = static_cast<int32_t>(static_cast<c10d::ReduceOp::RedOpType>(reduce_op)),
                       .board = board_})
             : under_way<AllreduceOperation>(c10d::OpType::ALLREDUCE, how, {tensor},
                                             AllreduceOperation::Options{.buffer = buffer,
                                                                         .type = type,
                                                                         .op = op,
                                                                         .comm = messages_,
                                                                         .rank = rank_,
                                                                         .size = size_,
                                                                         .tag = static_cast<int>(next_tag_++ % tags_),
                                                                         .pool = pool_,
                                                                         .several_hosts = thread_.several_hosts(),
                                                                         .same_either_way = !of_order || integral});
  if ((divide || !same) && work->isSuccess()) {
    if (divide) buffer.div_(size_);
    if (!same) tensor.copy_(buffer);
  }
  return work;
}

MpiBackend::Works MpiBackend::allreduce(std::vector<at::Tensor>& tensors, const c10d::AllreduceOptions& options) {
  return allreduce_one(the_one(tensors), options.reduceOp);
}

MpiBackend::Works MpiBackend::allreduce_coalesced(std::vector<at::Tensor>& tensors,
                                                  const c10d::AllreduceCoalescedOptions& options) {
  std::vector<Works> works;
  for (at::Tensor& tensor : tensors) works.push_back(allreduce_one(tensor, options.reduceOp));
  for (const Works& work : works) work->wait();
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
  run("all-gather", {from, to}, [=, this](MPI_Request* request) {
    return MPI_Iallgather(from.data_ptr(), count, type, to.data_ptr(), count, type, comm_, request);
  });
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
  const MPI_Datatype type = types_.datatype(input.scalar_type());
  const MPI_Op op = types_.op(options.reduceOp, input.scalar_type());
  const int count = whole_count(output.numel());
  run("reduce-scatter", {from, to}, [=, this](MPI_Request* request) {
    return MPI_Ireduce_scatter_block(from.data_ptr(), to.data_ptr(), count, type, op, comm_, request);
  });
  if (options.reduceOp == c10d::ReduceOp::AVG) to.div_(size_);
  if (!to.is_same(output)) output.copy_(to);
  return c10::make_intrusive<FinishedWork>(rank_, c10d::OpType::_REDUCE_SCATTER_BASE, std::vector<at::Tensor>{output});
}

MpiBackend::Works MpiBackend::send(std::vector<at::Tensor>& tensors, int to, int tag) {
  const at::Tensor buffer = the_one(tensors).contiguous();
  return under_way<RequestOperation>(
      c10d::OpType::SEND, CommThread::Mode::beside, {buffer}, "send", buffer.numel() * buffer.element_size(),
      [buffer, count = whole_count(buffer.numel()), type = types_.datatype(buffer.scalar_type()), to, tag,
       comm = comm_](MPI_Request* request) {
        return MPI_Isend(buffer.data_ptr(), count, type, to, tag, comm, request);
      });
}

MpiBackend::Works MpiBackend::recv(std::vector<at::Tensor>& tensors, int from, int tag) {
  const at::Tensor& target = the_one(tensors);
  const at::Tensor buffer = target.is_contiguous() ? target : at::empty(target.sizes(), target.options());
  auto work = under_way<RequestOperation>(
      c10d::OpType::RECV, CommThread::Mode::beside, {target}, "receive", buffer.numel() * buffer.element_size(),
      [buffer, count = whole_count(buffer.numel()), type = types_.datatype(buffer.scalar_type()), from, tag,
       comm = comm_](MPI_Request* request) {
        return MPI_Irecv(buffer.data_ptr(), count, type, from, tag, comm, request);
      });
  if (buffer.is_same(target)) return work;
  return c10::make_intrusive<CopyingWork>(std::move(work), buffer, target);
}

MpiBackend::Works MpiBackend::barrier(const c10d::BarrierOptions&) {
  run("barrier", {}, [this](MPI_Request* request) { return MPI_Ibarrier(comm_, request); });
  return c10::make_intrusive<FinishedWork>(rank_, c10d::OpType::BARRIER, std::vector<at::Tensor>{});
}

}  // namespace lockstep
