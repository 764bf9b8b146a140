#include "lockstep/weights.h"

#include <ATen/core/Dict.h>
#include <ATen/core/grad_mode.h>
#include <ATen/core/ivalue.h>
#include <caffe2/serialize/inline_container.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/jit/serialization/pickler.h>
#include <torch/nn/module.h>

#include <map>
#include <unordered_map>

#include "lockstep/error.h"
#include "store/checkpoint.h"
#include "store/files.h"
#include "store/pickle_reader.h"
#include "store/safetensors.h"
#include "store/zip_reader.h"

namespace lockstep {
namespace {

void collect(const torch::nn::Module& module, const std::string& prefix, NamedTensors& tensors) {
  for (const auto& item : module.named_parameters(/*recurse=*/false)) {
    tensors.emplace_back(prefix + item.key(), item.value().detach());
  }
  for (const auto& item : module.named_buffers(/*recurse=*/false)) {
    tensors.emplace_back(prefix + item.key(), item.value().detach());
  }
  for (const auto& child : module.named_children()) collect(*child.value(), prefix + child.key() + ".", tensors);
}

// A tensor alone in its storage, which is what a pickle saves: the storage, not the view.
at::Tensor alone(const at::Tensor& tensor) {
  at::Tensor flat = tensor.detach().cpu().contiguous();
  if (flat.storage().nbytes() != flat.nbytes()) flat = flat.clone();
  return flat;
}

std::string pth_bytes(const NamedTensors& tensors) {
  c10::Dict<std::string, at::Tensor> dict;
  for (const auto& [name, tensor] : tensors) {
    if (!dict.insert(name, alone(tensor)).second) {
      throw Error(ExitCode::internal, fmt::format("two tensors are named {}", name));
    }
  }
  std::string pickle;
  // The last argument, tag_aggregates=false, leaves out types that only TorchScript knows: weights_only=True refuses
  // them.
  torch::jit::Pickler pickler([&pickle](const char* data, std::size_t size) { pickle.append(data, size); }, nullptr,
                              nullptr, nullptr, nullptr, /*tag_aggregates=*/false);
  pickler.protocol();
  pickler.pushIValue(dict);
  pickler.stop();

  std::string archive;
  caffe2::serialize::PyTorchStreamWriter writer([&archive](const void* data, std::size_t size) {
    archive.append(static_cast<const char*>(data), size);
    return size;
  });
  std::size_t number = 0;
  for (const at::Tensor& storage : pickler.tensorData()) {
    writer.writeRecord(fmt::format("data/{}", number++), storage.const_data_ptr(), storage.storage().nbytes());
  }
  writer.writeRecord("data.pkl", pickle.data(), pickle.size());
  writer.writeRecord("byteorder", "little", 6);
  writer.writeEndOfFile();
  return archive;
}

// What the run tests: where weights are averaged over the steps, the averages.
NamedTensors model_of(const Checkpoint& checkpoint) {
  std::map<std::string, at::Tensor> averages;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    if (name.starts_with(kOptimizerPrefix) && name.ends_with(kAverageSuffix)) {
      averages.emplace(
          name.substr(kOptimizerPrefix.size(), name.size() - kOptimizerPrefix.size() - kAverageSuffix.size()), tensor);
    }
  }
  NamedTensors tensors;
  for (const auto& [full_name, tensor] : checkpoint.tensors) {
    if (!full_name.starts_with(kModelPrefix)) continue;
    const std::string name = full_name.substr(kModelPrefix.size());
    const auto average = averages.find(name);
    tensors.emplace_back(name, average == averages.end() ? tensor : average->second);
  }
  if (tensors.empty()) throw Malformed("it is a checkpoint without a model");
  return tensors;
}

Error unreadable(const std::string& path, const Malformed& problem, std::string hint) {
  return Error(ExitCode::damaged, fmt::format("{} is not a readable file of weights: {}", path, problem.what()),
               std::move(hint));
}

NamedTensors read_pth(const std::string& path, const std::string& bytes) {
  try {
    return read_pickled_tensors(ZipReader(bytes));
  } catch (const Malformed& problem) {
    throw unreadable(path, problem, "in Python, `torch.save(dict(net.state_dict()), path)` writes such a file");
  }
}

}  // namespace

NamedTensors state_dict(const torch::nn::Module& module) {
  NamedTensors tensors;
  collect(module, "", tensors);
  return tensors;
}

void load_state_dict(torch::nn::Module& module, const NamedTensors& tensors, const std::string& where) {
  const std::string hint = "these are weights of another network; check model.name";
  std::unordered_map<std::string, at::Tensor> given(tensors.begin(), tensors.end());
  const NamedTensors own = state_dict(module);
  for (const auto& [name, tensor] : own) {
    const auto found = given.find(name);
    if (found == given.end()) throw Error(ExitCode::damaged, fmt::format("{} lacks the tensor {}", where, name), hint);
    if (found->second.sizes() != tensor.sizes()) {
      throw Error(ExitCode::damaged,
                  fmt::format("{}: the tensor {} has the shape [{}], expected [{}]", where, name,
                              fmt::join(found->second.sizes(), ", "), fmt::join(tensor.sizes(), ", ")),
                  hint);
    }
  }
  if (given.size() > own.size()) {
    for (const auto& [name, tensor] : own) given.erase(name);
    for (const auto& [name, tensor] : tensors) {
      if (!given.contains(name)) continue;
      throw Error(ExitCode::damaged, fmt::format("{} holds the unexpected tensor {}", where, name), hint);
    }
  }
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : own) {
    at::Tensor target = tensor;  // shares the module's storage
    target.copy_(given.at(name));
  }
}

void save_pth(const std::string& path, const NamedTensors& tensors) { write_durably(path, pth_bytes(tensors)); }

NamedTensors load_pth(const std::string& path) { return read_pth(path, read_file(path)); }

void save_safetensors(const std::string& path, const NamedTensors& tensors) {
  write_durably(path, safetensors_bytes(tensors, {{"format", "pt"}}));
}

NamedTensors load_weights(const std::string& path) {
  const std::string bytes = read_file(path);
  // Where the JSON of a safetensors file begins, a zip archive has a number that is never '{': how it is compressed.
  const bool safetensors = bytes.size() > 8 && bytes[8] == '{';
  if (!safetensors && bytes.starts_with("PK")) return read_pth(path, bytes);
  try {
    if (!safetensors) throw Malformed("it is neither a .pth archive nor a safetensors file");
    const SafetensorsView view = view_safetensors(bytes);
    return is_checkpoint(view.metadata) ? model_of(read_checkpoint(bytes)) : copy_tensors(view);
  } catch (const Malformed& problem) {
    throw unreadable(path, problem,
                     "in Python, `safetensors.torch.save_file(net.state_dict(), path)` writes such a file; of a run, "
                     "another checkpoint may be whole");
  }
}

}  // namespace lockstep
