#include "lockstep/version.h"

#include <fmt/format.h>
#include <mpi.h>

#include <torch/version.h>
#include <string>

#include "world/gpu_part.h"

namespace lockstep {

std::string version() { return LOCKSTEP_VERSION; }

std::string versions() {
  char mpi[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  MPI_Get_library_version(mpi, &length);
  // Open MPI's text goes on with the builder's host; the first part names the version.
  const std::string mpi_text = std::string(mpi, static_cast<size_t>(length));
  std::string problem;
  const GpuPart* part = load_gpu_part(problem);
  return fmt::format("lockstep {}\nLibTorch {}\nMPI {}\ncompiler GCC {}\nkernels {}\nGPUs {}\n", version(),
                     TORCH_VERSION, mpi_text.substr(0, mpi_text.find_first_of(",\n")), __VERSION__,
                     LOCKSTEP_HAS_KERNELS != 0 ? "Lockstep's" : "LibTorch's",
                     part != nullptr ? part->versions() : "none: " + problem);
}

}  // namespace lockstep
