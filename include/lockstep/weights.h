// Named tensors in files that Python opens: .pth and .safetensors.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace torch::nn {
class Module;
}

namespace lockstep {

/// Names and tensors in order, as a Python state_dict.
using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// The parameters and buffers of a module under the names Python's state_dict gives them, sharing storage with the
/// module.
NamedTensors state_dict(const torch::nn::Module& module);

/// Copies `tensors` into the module, as load_state_dict(strict=True) of a plain dict: a `num_batches_tracked` that is
/// missing keeps the module's value. Beyond Python, names that would fit without one prefix, the same for all of them
/// (`module.` of DistributedDataParallel, `_orig_mod.` of torch.compile), are taken without it; so is a file of
/// torch.optim.swa_utils.AveragedModel. Returns a sentence for people that says so, else an empty text. Local. Throws
/// Error (ExitCode::damaged) naming the first missing, unexpected or differently shaped tensor, before anything is
/// changed.
std::string load_state_dict(torch::nn::Module& module, const NamedTensors& tensors, const std::string& where);

/// Writes a dict of tensors that `torch.load(path, weights_only=True)` reads; durable: written aside, fsynced, renamed,
/// folder fsynced, so `path` holds the old or the new weights and never a torn file. Local. Throws Error: ExitCode::io;
/// ExitCode::internal naming a tensor that load_pth could not read (not dense, quantized, or of a type such as uint16,
/// for which PyTorch has no storage class; save_safetensors takes it), or a name that is not UTF-8 or given twice.
void save_pth(const std::string& path, const NamedTensors& tensors);

/// Reads a dict of tensors written by save_pth or by Python's `torch.save(net.state_dict(), path)` or
/// `torch.save(dict(...))`, in its order, with every type that Python saves but quantized ones. Negation and
/// conjugation that were pending there are done. The checksums in the file are verified, and no code in it is run.
/// Local. Throws Error: ExitCode::missing, ExitCode::damaged (not such a file, torn, or changed), ExitCode::io.
NamedTensors load_pth(const std::string& path);

/// Writes a file that Python's `safetensors.torch.load_file(path)` reads; durable as save_pth. Tensors of larger
/// elements come first in it, otherwise they keep their order. Local. Throws Error: ExitCode::io; ExitCode::internal
/// naming a tensor that is not dense or of a type that the format has not, or a name that is not UTF-8 or given twice.
void save_safetensors(const std::string& path, const NamedTensors& tensors);

/// Reads weights, whatever the file is called: a .pth as load_pth; a safetensors file; of a checkpoint of Lockstep,
/// when every byte matches its checksums, the tensors of its model. Local. Throws Error: ExitCode::missing,
/// ExitCode::damaged, ExitCode::io.
NamedTensors load_weights(const std::string& path);

}  // namespace lockstep
