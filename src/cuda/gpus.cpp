#include "cuda/gpus.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

namespace lockstep {
namespace {

// As nvidia-smi writes it: GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx.
std::string uuid_text(const cudaDeviceProp& gpu) {
  const bool slice = std::string(gpu.name).find("MIG ") != std::string::npos;
  std::string text = slice ? "MIG-" : "GPU-";
  for (int i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", static_cast<unsigned char>(gpu.uuid.bytes[i]));
  }
  return text;
}

}  // namespace

VisibleGpus visible_gpus() {
  VisibleGpus sees;
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    cudaGetLastError();  // it would come back from a later call
    sees.problem = cudaGetErrorString(error);
    return sees;
  }
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties = {};
    if (const cudaError_t error = cudaGetDeviceProperties(&properties, i); error != cudaSuccess) {
      cudaGetLastError();
      sees.problem = fmt::format("GPU {}: {}", i, cudaGetErrorString(error));
      sees.gpus.clear();
      return sees;
    }
    char pci[32] = {};
    if (cudaDeviceGetPCIBusId(pci, sizeof pci, i) != cudaSuccess) cudaGetLastError();
    sees.gpus.push_back({.name = properties.name,
                         .uuid = uuid_text(properties),
                         .pci = pci,
                         .memory_bytes = static_cast<int64_t>(properties.totalGlobalMem)});
  }
  if (count == 0) sees.problem = "CUDA sees no GPU";
  return sees;
}

}  // namespace lockstep
