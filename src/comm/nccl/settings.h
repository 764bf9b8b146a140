// How NCCL and PyTorch's process group over it are set: decided here, without CUDA, and handed to the GPU part.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace lockstep {

/// What PyTorch's ProcessGroupNCCL and NCCL read from the environment, for this deadline (seconds; 0: none). Watching
/// and reports: a collective that fails or takes longer ends in an exception of the watchdog's thread, which LastWords
/// makes our message, after PyTorch's report on which rank fell behind and the dump of its flight recorder.
/// `interface`: as the user named it; empty: NCCL's own choice.
std::vector<std::pair<std::string, std::string>> nccl_environment(double deadline_s, const std::string& interface);

/// Sets those that the user has not set. Before the process group is made.
void apply_nccl_environment(const std::vector<std::pair<std::string, std::string>>& environment);

}  // namespace lockstep
