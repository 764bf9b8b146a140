// Saves what a file of weights holds once more, for safetensors_test.py to compare with Python's reading and writing.
//     resave IN OUT.pth                   the tensors, through load_weights and save_pth
//     resave IN OUT.safetensors           the tensors, through load_weights and save_safetensors
//     resave IN OUT.safetensors metadata  tensors and metadata of a safetensors file
//     resave IN OUT.safetensors double    the numbers as float64, complex ones as pairs
//     resave IN OUT.safetensors STATE     a checkpoint with this state, a JSON text that begins with '{'
#include <ATen/core/Tensor.h>
#include <ATen/ops/view_as_real.h>
#include <fmt/format.h>

#include <exception>
#include <string>

#include "lockstep/weights.h"
#include "store/checkpoint.h"
#include "store/files.h"
#include "store/safetensors.h"

int main(int argc, char** argv) {
  if (argc != 3 && argc != 4) return 64;
  try {
    const std::string in = argv[1], out = argv[2], how = argc == 4 ? argv[3] : "";
    if (how == "metadata") {
      const lockstep::Safetensors read = lockstep::read_safetensors(lockstep::read_file(in));
      lockstep::write_durably(out, lockstep::safetensors_bytes(read.tensors, read.metadata));
    } else if (how == "double") {
      lockstep::NamedTensors tensors = lockstep::load_weights(in);
      for (auto& [name, tensor] : tensors) {
        tensor = (tensor.is_complex() ? at::view_as_real(tensor) : tensor).to(at::kDouble);
      }
      lockstep::save_safetensors(out, tensors);
    } else if (how.starts_with('{')) {
      lockstep::write_durably(out, lockstep::checkpoint_bytes(lockstep::load_weights(in), how));
    } else {
      const auto save = out.ends_with(".pth") ? lockstep::save_pth : lockstep::save_safetensors;
      save(out, lockstep::load_weights(in));
    }
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
