#include "ddp/module_state.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <cstring>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "lockstep/error.h"
#include "lockstep/parameters.h"
#include "lockstep/world.h"

namespace lockstep {
namespace {

void refuse_unusual(const char* kind, const std::string& name, const at::Tensor& tensor) {
  if (!tensor.defined()) return;
  const bool dense = tensor.layout() == at::kStrided;
  const bool shared = dense && at::has_internal_overlap(tensor) == at::MemOverlap::Yes;
  if (dense && !shared && !tensor.is_quantized()) return;
  const std::string what = fmt::format("{} {} is {}", kind, name,
                                       shared  ? "expanded: several of its elements share one place in memory"
                                       : dense ? "quantized"
                                               : "not dense");
  throw AgreedError(Error(ExitCode::usage, fmt::format("{}, and ranks cannot copy it from rank 0", what),
                          shared ? "register tensor.contiguous() in its place"
                                 : "register tensor.to_dense() or tensor.dequantize() in its place, or keep it outside "
                                   "the module"),
                    /*rank=*/0);
}

// The elements of a tensor in the order of its shape.
struct Flat {
  at::Tensor tensor;     // as the module has it, but not known to autograd
  at::Tensor elements;   // contiguous: itself, or a copy
  bool in_place = true;  // it is itself

  int64_t bytes() const { return static_cast<int64_t>(elements.nbytes()); }
  at::Tensor as_bytes() const { return elements.view({-1}).view(at::kByte); }
};

Flat flatten(const at::Tensor& of_module, bool sends) {
  Flat flat;
  flat.tensor = of_module.variable_data();  // with a version of its own, which autograd does not look at
  flat.in_place = flat.tensor.is_contiguous() && !flat.tensor.is_conj() && !flat.tensor.is_neg();
  if (flat.in_place) {
    flat.elements = flat.tensor;
  } else {
    flat.elements = sends ? flat.tensor.resolve_conj().resolve_neg().contiguous()
                          : at::empty(flat.tensor.sizes(), flat.tensor.options());
  }
  return flat;
}

// A part of a message.
struct Piece {
  const Flat* flat;
  int64_t first;  // byte
  int64_t bytes;

  char* address() const { return static_cast<char*>(flat->elements.mutable_data_ptr()) + first; }
  at::Tensor as_bytes() const { return flat->as_bytes().narrow(0, first, bytes); }
};

void broadcast(World& world, const at::Tensor& bytes) {
  std::vector<at::Tensor> message = {bytes};
  world.process_group()->broadcast(message)->wait();
}

void send_together(World& world, const std::vector<Piece>& pieces, int64_t all_bytes) {
  if (pieces.empty()) return;
  if (pieces.size() == 1) return broadcast(world, pieces[0].as_bytes());
  const bool sends = world.rank() == 0;
  const at::TensorOptions options = at::TensorOptions(at::kByte).device(pieces[0].flat->elements.device());
  if (options.device().is_cpu()) {  // no operators: a message of a batch norm's statistics is due in every step
    const at::Tensor message = at::empty({all_bytes}, options);
    auto* at = static_cast<char*>(message.mutable_data_ptr());
    for (const Piece& piece : pieces) {
      if (sends) std::memcpy(at, piece.address(), static_cast<size_t>(piece.bytes));
      at += piece.bytes;
    }
    broadcast(world, message);
    at = static_cast<char*>(message.mutable_data_ptr());
    for (const Piece& piece : pieces) {
      if (!sends) std::memcpy(piece.address(), at, static_cast<size_t>(piece.bytes));
      at += piece.bytes;
    }
    return;
  }
  std::vector<at::Tensor> parts;
  for (const Piece& piece : pieces) parts.push_back(piece.as_bytes());
  const at::Tensor message = sends ? at::cat(parts) : at::empty({all_bytes}, options);
  broadcast(world, message);
  int64_t first = 0;
  for (at::Tensor& part : parts) {
    if (!sends) part.copy_(message.narrow(0, first, part.numel()));
    first += part.numel();
  }
}

}  // namespace

NamedTensors trainable_parameters(const torch::nn::Module& module) {
  NamedTensors found = named_parameters(module);
  std::erase_if(found, [](const auto& parameter) { return !parameter.second.requires_grad(); });
  return found;
}

void refuse_no_module(const char* taker, const torch::nn::Module* module) {
  if (module != nullptr) return;
  throw AgreedError(Error(ExitCode::usage, fmt::format("{} was given no module (a null pointer)", taker),
                          "pass std::make_shared<YourNet>()"),
                    /*rank=*/0);
}

void refuse_unusual_tensors(const torch::nn::Module& module) {
  for (const auto& item : module.named_parameters()) refuse_unusual("parameter", item.key(), item.value());
  for (const auto& item : module.named_buffers()) refuse_unusual("buffer", item.key(), item.value());
}

void refuse_sparse_gradient(const std::string& name, const at::Tensor& parameter) {
  const at::Tensor& gradient = parameter.grad();
  if (!gradient.defined() || gradient.layout() == at::kStrided) return;
  throw Error(ExitCode::usage, fmt::format("the gradient of {} is sparse, and ranks can only add up dense ones", name),
              "build the embedding without sparse(true)");
}

void follow_rank_0(World& world, const std::vector<at::Tensor>& tensors, int64_t most_bytes) {
  if (world.size() == 1) return;
  const c10::NoGradGuard no_grad;
  for (const bool on_host : {true, false}) {
    std::vector<Flat> flats;
    for (const at::Tensor& tensor : tensors) {
      if (!tensor.defined() || tensor.numel() == 0 || tensor.is_cpu() != on_host) continue;
      flats.push_back(flatten(tensor, world.rank() == 0));
    }
    std::vector<Piece> pieces;
    int64_t held = 0;
    for (const Flat& flat : flats) {
      for (int64_t first = 0; first < flat.bytes();) {
        pieces.push_back({&flat, first, std::min(flat.bytes() - first, most_bytes - held)});
        first += pieces.back().bytes;
        held += pieces.back().bytes;
        if (held < most_bytes) continue;
        send_together(world, pieces, held);
        pieces.clear();
        held = 0;
      }
    }
    send_together(world, pieces, held);
    if (world.rank() == 0) continue;
    for (Flat& flat : flats) {
      if (!flat.in_place) flat.tensor.copy_(flat.elements);
    }
  }
}

void follow_each_rank(World& world, const std::vector<at::Tensor>& parts) {
  const auto& group = world.process_group();
  std::vector<c10::intrusive_ptr<c10d::Work>> under_way;
  for (size_t rank = 0; rank < parts.size(); ++rank) {
    if (parts[rank].numel() == 0) continue;
    std::vector<at::Tensor> message = {parts[rank]};
    c10d::BroadcastOptions options;
    options.rootRank = static_cast<int64_t>(rank);
    under_way.push_back(group->broadcast(message, options));
  }
  for (const auto& work : under_way) work->wait();
}

}  // namespace lockstep
