// Versions of Lockstep and of what it was built with.
#pragma once

#include <string>

namespace lockstep {

/// For instance "0.1.0".
std::string version();

/// One line each: Lockstep, LibTorch, MPI, compiler, and CUDA with NCCL or why there is none. May be called before a
/// World is built.
std::string versions();

}  // namespace lockstep
