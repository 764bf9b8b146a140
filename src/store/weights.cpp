#include "lockstep/weights.h"

#include <ATen/core/Dict.h>
#include <ATen/core/ivalue.h>
#include <caffe2/serialize/inline_container.h>
#include <fmt/format.h>
#include <torch/csrc/jit/serialization/pickler.h>

#include <map>

#include "lockstep/error.h"
#include "store/checkpoint.h"
#include "store/files.h"
#include "store/foreign_file.h"
#include "store/pickle_reader.h"
#include "store/safetensors.h"
#include "store/storage_types.h"
#include "store/utf8.h"
#include "store/zip_reader.h"

namespace lockstep {
namespace {

// A tensor alone in its storage, which is what a pickle saves: the storage, not the view.
at::Tensor alone(const std::string& name, const at::Tensor& tensor) {
  if (tensor.defined() && !has_storage_class(tensor.scalar_type())) {
    throw Error(
        ExitCode::internal,
        fmt::format("the tensor {} is of type {}, for which a .pth file has no storage class", name,
                    c10::toString(tensor.scalar_type())),
        tensor.is_quantized() ? "save what its dequantize() gives" : "convert it first, or use save_safetensors");
  }
  at::Tensor flat = flat_on_host(name, tensor);
  if (flat.storage().nbytes() != flat.nbytes()) flat = flat.clone();
  return flat;
}

std::string pth_bytes(const NamedTensors& tensors) {
  c10::Dict<std::string, at::Tensor> dict;
  for (const auto& [name, tensor] : tensors) {
    if (!is_utf8(name)) {  // Python could not read the pickle
      throw Error(ExitCode::internal, fmt::format("the name \"{}\" for a .pth file is not UTF-8", escaped(name)),
                  "give names in UTF-8");
    }
    if (!dict.insert(name, alone(name, tensor)).second) {
      throw Error(ExitCode::internal, fmt::format("two tensors are named {}", name), "give each its own name");
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
  if (const auto foreign = foreign_file(path, bytes)) throw unreadable(path, Malformed(foreign->what), foreign->hint);
  try {
    return read_pickled_tensors(ZipReader(bytes));
  } catch (const Malformed& problem) {
    throw unreadable(path, problem, "in Python, `torch.save(dict(net.state_dict()), path)` writes such a file");
  }
}

}  // namespace

void save_pth(const std::string& path, const NamedTensors& tensors) { write_durably(path, pth_bytes(tensors)); }

NamedTensors load_pth(const std::string& path) { return read_pth(path, read_file(path)); }

void save_safetensors(const std::string& path, const NamedTensors& tensors) {
  write_durably(path, safetensors_bytes(tensors, {{"format", "pt"}}));
}

NamedTensors load_weights(const std::string& path) {
  const std::string bytes = read_file(path);
  // Where the JSON of a safetensors file begins, a zip archive has a number that is never '{': how it is compressed.
  const bool safetensors = bytes.size() > 8 && bytes[8] == '{';
  if (!safetensors && (bytes.starts_with("PK") || foreign_file(path, bytes))) return read_pth(path, bytes);
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
