// The part of Lockstep that knows CUDA and NCCL: a shared library of its own (src/cuda), loaded where a GPU is wanted
// and a driver is there. So one program serves hosts with and without GPUs, and a run on the CPU loads none of CUDA's
// gigabytes.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <functional>
#include <memory>
#include <string>

#include "world/gpus.h"
#include "world/recorded_work.h"

namespace c10d {
class Backend;
class Store;
}  // namespace c10d

namespace lockstep {

/// What PyTorch's process group over NCCL is given (src/cuda/nccl.cpp says how).
struct NcclOptions {
  int rank = 0;
  int size = 1;
  int gpu = 0;            ///< index among the visible ones
  double deadline_s = 0;  ///< 0: for ever
};

/// The functions of the part. They throw what LibTorch throws, but for `look`, which never does.
struct GpuPart {
  const char* built_with;     ///< gpu_part_key() of its build: must be the program's own
  int nccl_of_headers;        ///< NCCL_VERSION_CODE, for instance 23007 for 2.30.7
  int (*nccl_loaded)();       ///< the same of the library that was loaded
  std::string (*versions)();  ///< "CUDA 13.2, driver for CUDA 13.0, NCCL 2.30.7"
  VisibleGpus (*look)();      ///< starts no context on any GPU
  c10::intrusive_ptr<c10d::Backend> (*make_nccl)(const c10::intrusive_ptr<c10d::Store>& store,
                                                 const NcclOptions& options);
  std::unique_ptr<RecordedWork> (*record)(const std::function<void(RecordedWork&)>& work);  ///< see record_work
};

/// The name of the one function that the part exports: `const GpuPart* lockstep_gpu_part()`.
constexpr const char* kGpuPartSymbol = "lockstep_gpu_part";

#ifdef LOCKSTEP_GPU_PART_KEY
/// Program and part must have been built together: version of Lockstep and of LibTorch.
inline std::string gpu_part_key() { return LOCKSTEP_GPU_PART_KEY; }
#endif

/// Loads the part, once in a process; nullptr where that cannot be, and `problem` says why. Call it before the first
/// use of LibTorch that asks for CUDA (torch::cuda::is_available, manual_seed): LibTorch remembers the answer.
const GpuPart* load_gpu_part(std::string& problem);

/// Loads the part from this file, driver or not; for what works without a GPU: its versions, tests.
const GpuPart* load_gpu_part_from(const std::string& file, std::string& problem);

/// The part's file: beside the program or the library that holds this code, in the folder lib beside its folder, or
/// where it was built; empty when it is at none of these places.
std::string find_gpu_part();

/// What this process sees: loads the part where a driver is there.
VisibleGpus look_for_gpus();

}  // namespace lockstep
