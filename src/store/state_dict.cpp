// A module's tensors by Python's names, and back.
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/nn/module.h>

#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "lockstep/error.h"
#include "lockstep/weights.h"

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

// BatchNorm's buffer, which PyTorch before 0.4.1 did not have. Python keeps the module's own where a dict lacks it
// (torch/nn/modules/batchnorm.py, _load_from_state_dict).
bool may_be_missing(std::string_view name) {
  constexpr std::string_view kCount = "num_batches_tracked";
  return name == kCount || (name.ends_with(kCount) && name[name.size() - kCount.size() - 1] == '.');
}

// What torch.optim.swa_utils.AveragedModel saves beside the tensors of its module.
constexpr std::string_view kAveragedCount = "n_averaged";

using ByName = std::unordered_map<std::string, at::Tensor>;

// Whether `prefix` before each name of the module makes those of the file.
bool fits(const std::string& prefix, const NamedTensors& own, const ByName& given) {
  std::size_t found = 0;
  for (const auto& [name, tensor] : own) {
    const bool there = given.contains(prefix + name);
    if (!there && !may_be_missing(name)) return false;
    found += there ? 1 : 0;
  }
  return found + given.count(std::string(kAveragedCount)) == given.size();
}

// What stands before every name of a file because a wrapper held the module that was saved: "module." of
// DistributedDataParallel, "_orig_mod." of torch.compile, both, or any other. Empty where names fit as they are, or
// do not fit with any prefix.
std::string prefix_of(const NamedTensors& own, const ByName& given) {
  if (own.empty() || given.contains(own[0].first)) return "";
  const std::string end = "." + own[0].first;
  for (const auto& [name, tensor] : given) {
    if (!name.ends_with(end)) continue;
    const std::string prefix = name.substr(0, name.size() - own[0].first.size());
    if (fits(prefix, own, given)) return prefix;
  }
  return "";
}

std::string without_prefix(const NamedTensors& own, ByName& given, const std::string& where) {
  const std::string prefix = prefix_of(own, given);
  if (prefix.empty()) return "";
  const bool counted = given.erase(std::string(kAveragedCount)) > 0;
  ByName renamed;
  for (auto& [name, tensor] : given) renamed.emplace(name.substr(prefix.size()), std::move(tensor));
  given = std::move(renamed);
  return fmt::format("{}: every name in it begins with '{}', which was left out{}", where, prefix,
                     counted ? fmt::format(", as was the entry {}", kAveragedCount) : "");
}

}  // namespace

NamedTensors state_dict(const torch::nn::Module& module) {
  NamedTensors tensors;
  collect(module, "", tensors);
  return tensors;
}

std::string load_state_dict(torch::nn::Module& module, const NamedTensors& tensors, const std::string& where) {
  const std::string hint = "these are weights of another network; check model.name";
  ByName given(tensors.begin(), tensors.end());
  const NamedTensors own = state_dict(module);
  const std::string note = without_prefix(own, given, where);
  std::unordered_set<std::string> known;
  for (const auto& [name, tensor] : own) {
    known.insert(name);
    const auto found = given.find(name);
    if (found == given.end()) {
      if (may_be_missing(name)) continue;
      throw Error(ExitCode::damaged,
                  fmt::format("{} lacks the tensor {}{}", where, name,
                              tensors.empty() ? "" : fmt::format(" (the first one in it is {})", tensors[0].first)),
                  hint);
    }
    if (found->second.is_complex() && !tensor.is_complex()) {
      throw Error(ExitCode::damaged, fmt::format("{}: the tensor {} is complex, expected a real one", where, name),
                  hint);
    }
    if (found->second.sizes() != tensor.sizes()) {
      throw Error(ExitCode::damaged,
                  fmt::format("{}: the tensor {} has the shape [{}], expected [{}]", where, name,
                              fmt::join(found->second.sizes(), ", "), fmt::join(tensor.sizes(), ", ")),
                  hint);
    }
  }
  for (const auto& [name, tensor] : tensors) {
    if (!note.empty() || known.contains(name)) continue;
    throw Error(ExitCode::damaged, fmt::format("{} holds the unexpected tensor {}", where, name), hint);
  }
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : own) {
    const auto found = given.find(name);
    if (found == given.end()) continue;
    at::Tensor target = tensor;  // shares the module's storage
    target.copy_(found->second);
  }
  return note;
}

}  // namespace lockstep
