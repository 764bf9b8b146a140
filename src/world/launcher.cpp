#include "world/launcher.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace lockstep {
namespace {

int number(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  if (text == nullptr || *text == '\0') return otherwise;
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  return *end == '\0' ? static_cast<int>(value) : otherwise;
}

}  // namespace

int launcher_rank() {
  for (const char* variable : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
    const int rank = number(variable, -1);
    if (rank >= 0) return rank;
  }
  // Only in a step of srun does SLURM_PROCID speak of tasks; in the batch shell it is always 0.
  return number("SLURM_STEP_NUM_TASKS", 0) > 0 ? number("SLURM_PROCID", 0) : 0;
}

int launcher_size() { return number("OMPI_COMM_WORLD_SIZE", number("SLURM_STEP_NUM_TASKS", 1)); }

int unseen_tasks(int mpi_size) {
  if (mpi_size > 1 || std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr) return 0;
  const int tasks = number("SLURM_STEP_NUM_TASKS", 1);
  return tasks > 1 ? tasks : 0;
}

bool stdout_is_terminal() {
  if (isatty(STDOUT_FILENO) != 1) return false;
  if (std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr) return true;
  const std::string parents = "/proc/" + std::to_string(getppid()) + "/fd/1";
  const int descriptor = open(parents.c_str(), O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  if (descriptor < 0) return false;
  const bool terminal = isatty(descriptor) == 1;
  close(descriptor);
  return terminal;
}

}  // namespace lockstep
