// What the program sees of this library: one function that hands out a table of functions (world/gpu_part.h).
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <nccl.h>

#include "cuda/gpus.h"
#include "cuda/graph.h"
#include "cuda/nccl.h"
#include "world/gpu_part.h"

namespace lockstep {
namespace {

int nccl_loaded() {
  int version = 0;
  return ncclGetVersion(&version) == ncclSuccess ? version : 0;
}

// CUDA writes 13020 for 13.2, NCCL 23007 for 2.30.7.
std::string cuda_version(int code) { return fmt::format("{}.{}", code / 1000, code % 1000 / 10); }
std::string nccl_version(int code) { return fmt::format("{}.{}.{}", code / 10000, code / 100 % 100, code % 100); }

std::string versions() {
  int runtime = 0;
  int driver = 0;
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&driver);  // 0 without a driver
  return fmt::format("CUDA {}, {}, NCCL {}", cuda_version(runtime),
                     driver == 0 ? "no driver" : fmt::format("driver for CUDA {}", cuda_version(driver)),
                     nccl_version(nccl_loaded()));
}

const GpuPart kPart = {.built_with = LOCKSTEP_GPU_PART_KEY,
                       .nccl_of_headers = NCCL_VERSION_CODE,
                       .nccl_loaded = &nccl_loaded,
                       .versions = &versions,
                       .look = &visible_gpus,
                       .make_nccl = &make_nccl,
                       .record = &record_graph};

}  // namespace
}  // namespace lockstep

extern "C" __attribute__((visibility("default"))) const lockstep::GpuPart* lockstep_gpu_part();
const lockstep::GpuPart* lockstep_gpu_part() { return &lockstep::kPart; }
