#include "comm/mpi/mpi_backend.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <cstring>

#include "comm/mpi/work.h"
#include "comm/shared/allreduce.h"
#include "world/world_impl.h"

namespace lockstep {
namespace {

at::Tensor& the_one(std::vector<at::Tensor>& tensors) {
  TORCH_CHECK(tensors.size() == 1, "the MPI backend takes one tensor a call, got ", tensors.size());
  const at::Tensor& tensor = tensors[0];
  TORCH_CHECK(tensor.layout() == at::kStrided && tensor.device().is_cpu() && !tensor.is_quantized(),
              "the MPI backend takes dense tensors in host memory, got ", tensor.is_quantized() ? "a quantized" : "a",
              " tensor of ", type_name(tensor.scalar_type()), ", layout ", tensor.layout(), ", on ", tensor.device());
  return tensors[0];
}

at::Tensor& the_one_to_write(std::vector<at::Tensor>& tensors) {
  at::Tensor& tensor = the_one(tensors);
  TORCH_CHECK(at::has_internal_overlap(tensor) != at::MemOverlap::Yes,
              "a collective cannot write to a tensor of shape ", tensor.sizes(), " and strides ", tensor.strides(),
              ": several of its elements lie in one place (expand?); call contiguous() before");
  return tensor;
}

// What its memory holds is what it means: a lazily negated or conjugated view's does not.
bool is_plain(const at::Tensor& tensor) { return !tensor.is_neg() && !tensor.is_conj(); }

// A tensor whose storage MPI may use from data_ptr() on for numel() elements.
bool in_place(const at::Tensor& tensor) { return tensor.is_non_overlapping_and_dense() && is_plain(tensor); }

at::Tensor in_order(const at::Tensor& tensor) { return tensor.resolve_conj().resolve_neg().contiguous(); }

at::Tensor buffer_of(const at::Tensor& tensor) { return in_place(tensor) ? tensor : in_order(tensor); }

bool is_in_order(const at::Tensor& tensor) { return tensor.is_contiguous() && is_plain(tensor); }

at::Tensor to_fill(const at::Tensor& tensor) {
  return is_in_order(tensor) ? tensor : at::empty(tensor.sizes(), tensor.options());
}

Call call_on(const char* kind, const at::Tensor& tensor, const char* op = "", int64_t root = -1) {
  return Call::of(kind, {.type = type_name(tensor.scalar_type()),
                         .count = tensor.numel(),
                         .bytes = static_cast<int64_t>(tensor.nbytes()),
                         .op = op,
                         .root = static_cast<int>(root)});
}

Call allreduce_call(int64_t bytes, int32_t type, int32_t op) {
  const auto scalar = static_cast<c10::ScalarType>(type);
  return Call::of("all-reduce", {.type = type_name(scalar),
                                 .count = bytes / static_cast<int64_t>(c10::elementSize(scalar)),
                                 .bytes = bytes,
                                 .op = op_name(static_cast<c10d::ReduceOp::RedOpType>(op))});
}

const char* op_of(const c10d::ReduceOp& op) { return op_name(static_cast<c10d::ReduceOp::RedOpType>(op)); }

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

void MpiBackend::run(const Call& call, std::vector<at::Tensor> tensors, Collective::Next next) {
  // The tensors go with the operation: MPI may write to them even after it failed.
  thread_.run(std::make_shared<Collective>(
      thread_, comm_, call,
      [next = std::move(next), tensors = std::move(tensors)](const std::vector<int64_t>& values, MPI_Request* request) {
        return next(values, request);
      }));
}

MpiBackend::Works MpiBackend::broadcast(std::vector<at::Tensor>& tensors, const c10d::BroadcastOptions& options) {
  at::Tensor& tensor = the_one_to_write(tensors);
  TORCH_CHECK(options.rootRank >= 0 && options.rootRank < size_, "a broadcast from rank ", options.rootRank, " of ",
              size_, " ranks");
  at::Tensor buffer = in_order(tensor);  // strides may differ between ranks, the order of elements may not
  const bool same = buffer.is_same(tensor);
  const auto bytes = static_cast<int64_t>(buffer.nbytes());
  const auto next = [buffer, bytes, first = int64_t{0}, root = static_cast<int>(options.rootRank), comm = messages_,
                     most = longest_message_.load()](const std::vector<int64_t>&, MPI_Request* request) mutable {
    if (bytes == 0) return Collective::Posted::nothing;
    const int64_t part = std::min(most, bytes - first);
    check_mpi(MPI_Ibcast(static_cast<char*>(buffer.data_ptr()) + first, static_cast<int>(part), MPI_BYTE, root, comm,
                         request),
              "MPI_Ibcast");
    first += part;
    return first < bytes ? Collective::Posted::more : Collective::Posted::last;
  };
  const auto work = under_way<Collective>(c10d::OpType::BROADCAST, mode(same), tensors, thread_, comm_,
                                          call_on("broadcast", buffer, "", options.rootRank), next);
  if (!same && work->isSuccess()) tensor.copy_(buffer);
  return work;
}

MpiBackend::Works MpiBackend::allreduce_one(at::Tensor& tensor, const c10d::ReduceOp& reduce_op) {
  if (size_ == 1 || !sending_) {            // the comm thread has nothing to wait for: not even its waking is paid for
    types_.datatype(tensor.scalar_type());  // what MPI cannot do is refused as with more ranks
    types_.op(reduce_op, tensor.scalar_type());
    return c10::make_intrusive<FinishedWork>(rank_, c10d::OpType::ALLREDUCE, std::vector<at::Tensor>{tensor});
  }
  const Call call = call_on("all-reduce", tensor, op_of(reduce_op));
  at::Tensor buffer = buffer_of(tensor);
  const bool divide = reduce_op == c10d::ReduceOp::AVG;
  const bool same = buffer.is_same(tensor);
  const MPI_Datatype type = types_.datatype(tensor.scalar_type());
  const MPI_Op op = types_.op(reduce_op, tensor.scalar_type());
  const bool integral = c10::isIntegralType(tensor.scalar_type(), /*includeBool=*/false);
  const bool of_order = reduce_op == c10d::ReduceOp::MIN || reduce_op == c10d::ReduceOp::MAX;
  const CommThread::Mode how = mode(same && !divide);
  const auto work = board_ ? under_way<SharedAllreduce>(
                                 c10d::OpType::ALLREDUCE, how, {tensor},
                                 SharedAllreduce::Options{
                                     .buffer = buffer,
                                     .type = type,
                                     .op = op,
                                     .comm = messages_,
                                     .op_name = static_cast<int32_t>(static_cast<c10d::ReduceOp::RedOpType>(reduce_op)),
                                     .board = board_,
                                     .call = call,
                                     .call_of = &allreduce_call})
                           : under_way<AllreduceOperation>(
                                 c10d::OpType::ALLREDUCE, how, {tensor},
                                 AllreduceOperation::Options{.buffer = buffer,
                                                             .type = type,
                                                             .op = op,
                                                             .comm = messages_,
                                                             .rank = rank_,
                                                             .size = size_,
                                                             .tag = allreduce_tag(next_allreduce_++, call, tags_),
                                                             .pool = pool_,
                                                             .several_hosts = thread_.several_hosts(),
                                                             .same_either_way = !of_order || integral,
                                                             .call = call});
  if ((divide || !same) && work->isSuccess()) {
    if (divide) buffer.div_(size_);
    if (!same) tensor.copy_(buffer);
  }
  return work;
}

MpiBackend::Works MpiBackend::allreduce(std::vector<at::Tensor>& tensors, const c10d::AllreduceOptions& options) {
  return allreduce_one(the_one_to_write(tensors), options.reduceOp);
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
  at::Tensor input = in_order(the_one(inputs));
  TORCH_CHECK(outputs.size() == 1 && outputs[0].size() == static_cast<size_t>(size_), "all-gather wants one list of ",
              size_, " output tensors");
  for (const at::Tensor& output : outputs[0]) {
    TORCH_CHECK(output.sizes() == input.sizes() && output.scalar_type() == input.scalar_type(),
                "the outputs of an all-gather have the input's shape ", input.sizes(), " and type ",
                type_name(input.scalar_type()), ", got ", output.sizes(), " and ", type_name(output.scalar_type()));
  }
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
  const at::Tensor from = in_order(input);
  const at::Tensor to = to_fill(output);
  const auto bytes = static_cast<int64_t>(from.nbytes());
  const int64_t most = longest_message_;
  // In pieces, each rank's goes out to all others by itself: MPI puts what it gathers side by side.
  const auto next = [=, this, first = int64_t{0}, root = 0](const std::vector<int64_t>&, MPI_Request* request) mutable {
    if (bytes == 0) return Collective::Posted::nothing;
    char* const at = static_cast<char*>(to.data_ptr());
    if (bytes <= most) {
      const auto count = static_cast<int>(bytes);
      check_mpi(MPI_Iallgather(from.data_ptr(), count, MPI_BYTE, at, count, MPI_BYTE, messages_, request),
                "MPI_Iallgather");
      return Collective::Posted::last;
    }
    if (first == 0 && root == rank_) std::memcpy(at + root * bytes, from.data_ptr(), static_cast<size_t>(bytes));
    const int64_t part = std::min(most, bytes - first);
    check_mpi(MPI_Ibcast(at + root * bytes + first, static_cast<int>(part), MPI_BYTE, root, messages_, request),
              "MPI_Ibcast");
    first += part;
    if (first == bytes) {
      first = 0;
      ++root;
    }
    return root < size_ ? Collective::Posted::more : Collective::Posted::last;
  };
  run(call_on("all-gather", from), {from, to}, next);
  if (!to.is_same(output)) output.copy_(to);
  return c10::make_intrusive<FinishedWork>(rank_, c10d::OpType::_ALLGATHER_BASE, std::vector<at::Tensor>{output});
}

MpiBackend::Works MpiBackend::reduce_scatter(std::vector<at::Tensor>& outputs,
                                             std::vector<std::vector<at::Tensor>>& inputs,
                                             const c10d::ReduceScatterOptions& options) {
  at::Tensor& output = the_one_to_write(outputs);
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
  const at::Tensor from = in_order(input);
  at::Tensor to = to_fill(output);
  const MPI_Datatype type = types_.datatype(input.scalar_type());
  const MPI_Op op = types_.op(options.reduceOp, input.scalar_type());
  const int64_t count = output.numel();
  const int64_t element = from.element_size();
  const int64_t most = std::max<int64_t>(1, longest_message_ / (element * size_));
  // In pieces, those of all ranks are put side by side, as MPI wants them.
  const at::Tensor piece = count > most ? at::empty({size_ * most}, from.options()) : at::Tensor();
  const auto next = [=, this, first = int64_t{0}](const std::vector<int64_t>&, MPI_Request* request) mutable {
    if (count == 0) return Collective::Posted::nothing;
    const int64_t part = std::min(most, count - first);
    const char* source = static_cast<const char*>(from.data_ptr());
    if (piece.defined()) {
      char* const side_by_side = static_cast<char*>(piece.data_ptr());
      for (int rank = 0; rank < size_; ++rank) {
        std::memcpy(side_by_side + rank * part * element, source + (rank * count + first) * element,
                    static_cast<size_t>(part * element));
      }
      source = side_by_side;
    }
    check_mpi(MPI_Ireduce_scatter_block(source, static_cast<char*>(to.data_ptr()) + first * element,
                                        static_cast<int>(part), type, op, messages_, request),
              "MPI_Ireduce_scatter_block");
    first += part;
    return first < count ? Collective::Posted::more : Collective::Posted::last;
  };
  std::vector<at::Tensor> tensors = {from, to};
  if (piece.defined()) tensors.push_back(piece);
  run(call_on("reduce-scatter", from, op_of(options.reduceOp)), tensors, next);
  if (options.reduceOp == c10d::ReduceOp::AVG) to.div_(size_);
  if (!to.is_same(output)) output.copy_(to);
  return c10::make_intrusive<FinishedWork>(rank_, c10d::OpType::_REDUCE_SCATTER_BASE, std::vector<at::Tensor>{output});
}

MpiBackend::Works MpiBackend::message(c10d::OpType type, const char* name, const at::Tensor& buffer,
                                      std::vector<at::Tensor> result, int peer, int tag) {
  TORCH_CHECK(peer >= 0 && peer < size_, "a message to or from rank ", peer, " of ", size_, " ranks");
  const auto bytes = static_cast<int64_t>(buffer.nbytes());
  const auto post = [buffer, bytes, peer, tag, sends = type == c10d::OpType::SEND, comm = comm_,
                     most = longest_message_.load()](std::vector<MPI_Request>& requests) {
    int64_t first = 0;
    do {  // an empty message is one, too
      char* const at = static_cast<char*>(buffer.data_ptr()) + first;
      const auto part = static_cast<int>(std::min(most, bytes - first));
      MPI_Request* const request = &requests.emplace_back(MPI_REQUEST_NULL);
      if (sends) {
        check_mpi(MPI_Isend(at, part, MPI_BYTE, peer, tag, comm, request), "MPI_Isend");
      } else {
        check_mpi(MPI_Irecv(at, part, MPI_BYTE, peer, tag, comm, request), "MPI_Irecv");
      }
      first += part;
    } while (first < bytes);
  };
  return under_way<MessageOperation>(type, CommThread::Mode::beside, std::move(result), name, bytes, peer, post);
}

MpiBackend::Works MpiBackend::send(std::vector<at::Tensor>& tensors, int to, int tag) {
  const at::Tensor buffer = in_order(the_one(tensors));
  return message(c10d::OpType::SEND, "send", buffer, {buffer}, to, tag);
}

MpiBackend::Works MpiBackend::recv(std::vector<at::Tensor>& tensors, int from, int tag) {
  const at::Tensor& target = the_one_to_write(tensors);
  const at::Tensor buffer = to_fill(target);
  auto work = message(c10d::OpType::RECV, "receive", buffer, {target}, from, tag);
  if (buffer.is_same(target)) return work;
  return c10::make_intrusive<CopyingWork>(std::move(work), buffer, target);
}

MpiBackend::Works MpiBackend::barrier(const c10d::BarrierOptions&) {
  thread_.run(std::make_shared<Collective>(thread_, comm_, Call::of("barrier")));
  return c10::make_intrusive<FinishedWork>(rank_, c10d::OpType::BARRIER, std::vector<at::Tensor>{});
}

}  // namespace lockstep
