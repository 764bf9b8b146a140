#include "world/gpu_part.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <vector>

namespace lockstep {
namespace {

constexpr const char* kFile = "liblockstep_cuda.so";

const GpuPart* load(std::string& problem) {
  const std::string file = find_gpu_part();
  if (file.empty()) {
    problem = fmt::format("built without the GPU part ({})", kFile);
    return nullptr;
  }
  // The driver's own library, which no wheel brings. Looked for first: CUDA's libraries take a second to load.
  if (dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL) == nullptr) {
    problem = "no NVIDIA driver (libcuda.so.1)";
    return nullptr;
  }
  return load_gpu_part_from(file, problem);
}

}  // namespace

std::string find_gpu_part() {
  std::vector<std::filesystem::path> places;
  std::error_code failed;
  Dl_info here = {};
  if (dladdr(reinterpret_cast<const void*>(&load_gpu_part), &here) != 0 && here.dli_fname != nullptr) {
    // A program started through PATH is known by its bare name only.
    for (const char* file : {here.dli_fname, "/proc/self/exe"}) {
      const auto holder = std::filesystem::canonical(file, failed);
      if (failed) continue;
      places.push_back(holder.parent_path() / kFile);
      places.push_back(holder.parent_path().parent_path() / "lib" / kFile);
    }
  }
  places.emplace_back(LOCKSTEP_GPU_PART_FILE);
  for (const auto& place : places) {
    if (std::filesystem::is_regular_file(place, failed)) return place.string();
  }
  return "";
}

const GpuPart* load_gpu_part_from(const std::string& file, std::string& problem) {
  // Global, as if the program had been linked with it: LibTorch's own libraries look for each other's symbols.
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    problem = fmt::format("{} cannot be loaded: {}", file, reason == nullptr ? "unknown reason" : reason);
    return nullptr;
  }
  const auto function = reinterpret_cast<const GpuPart* (*)()>(dlsym(library, kGpuPartSymbol));
  const GpuPart* part = function == nullptr ? nullptr : function();
  if (part == nullptr || part->built_with != gpu_part_key()) {
    problem = fmt::format("{} belongs to another build", file);
    return nullptr;
  }
  if (part->nccl_loaded() != part->nccl_of_headers) {
    problem = fmt::format("built for NCCL {}, but NCCL {} was loaded (LD_LIBRARY_PATH or LD_PRELOAD?)",
                          part->nccl_of_headers, part->nccl_loaded());
    return nullptr;
  }
  return part;
}

const GpuPart* load_gpu_part(std::string& problem) {
  static std::once_flag once;
  static const GpuPart* part = nullptr;
  static std::string why_not;
  std::call_once(once, [] { part = load(why_not); });
  problem = why_not;
  return part;
}

VisibleGpus look_for_gpus() {
  VisibleGpus sees;
  if (const GpuPart* part = load_gpu_part(sees.problem)) {
    sees = part->look();
    const char* share = std::getenv("NCCL_MULTI_RANK_GPU_ENABLE");
    sees.may_share = share != nullptr && std::string(share) == "1" && part->nccl_loaded() >= 23000;
  }
  if (const char* mask = std::getenv("CUDA_VISIBLE_DEVICES"))
    sees.visible = fmt::format("CUDA_VISIBLE_DEVICES={}", mask);
  return sees;
}

}  // namespace lockstep
