#include "world/launcher.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <system_error>

#include "lockstep/world.h"
#include "world/last_words.h"

namespace lockstep {
namespace {

int number(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  if (text == nullptr || *text == '\0') return otherwise;
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  return *end == '\0' ? static_cast<int>(value) : otherwise;
}

bool is_set(const char* variable) { return std::getenv(variable) != nullptr; }

int first_number(std::initializer_list<const char*> variables, int otherwise) {
  for (const char* variable : variables) {
    const int value = number(variable, -1);
    if (value >= 0) return value;
  }
  return otherwise;
}

// Whether the ranks of this MPI find each other by PMI-1 or PMI-2 as well: those of MPICH do, those of Open MPI 4 where
// it was built so. Seen before MPI starts, since Open MPI ends the process where it finds no way.
bool mpi_speaks_pmi() {
#ifdef OPEN_MPI
  Dl_info library = {};
  const void* const start = dlsym(RTLD_DEFAULT, "MPI_Init_thread");
  if (start == nullptr || dladdr(start, &library) == 0) return false;
  std::error_code error;
  const auto folder = std::filesystem::canonical(library.dli_fname, error).parent_path();
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (!entry.path().filename().string().starts_with("openmpi")) continue;
    for (const char* part : {"mca_pmix_s1.so", "mca_pmix_s2.so"}) {
      if (std::filesystem::exists(entry.path() / part, error)) return true;
    }
  }
  return false;
#else
  return true;
#endif
}

// A launcher that hands each process its place by variables that MPI does not read.
struct Launcher {
  const char* name;
  const char* size;
  const char* rank;
};
constexpr std::array kOthers = {
    Launcher{"horovodrun", "HOROVOD_SIZE", "HOROVOD_RANK"},
    Launcher{"MVAPICH's launcher", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"},
    Launcher{"PALS", "PALS_SIZE", "PALS_RANKID"},
};

// Ranks that MPI will join by what the launcher's variables say; 0 when they say nothing.
int ranks_to_join() {
  if (is_set("OMPI_COMM_WORLD_SIZE")) return number("OMPI_COMM_WORLD_SIZE", 1);
  if (is_set("PMIX_RANK")) return number("SLURM_STEP_NUM_TASKS", std::numeric_limits<int>::max());
  return 0;
}

std::string use_mpirun(int tasks) {
  return fmt::format("start it with `launch/run -n {0} -- …`, or `mpirun -n {0} …`", tasks);
}

// WORLD_SIZE by itself may have been exported for another program. torchrun's own mark says more than mpirun's
// variables, which torchrun passes on when it was itself started by mpirun.
std::optional<SeparateTasks> tasks_of_torchrun(int joined) {
  const int tasks = number("WORLD_SIZE", 1);
  const int rank = number("RANK", -1);
  const bool torchrun = is_set("TORCHELASTIC_RUN_ID");
  const bool alike = joined == 0 && (is_set("LOCAL_RANK") || is_set("MASTER_ADDR"));
  if (tasks <= std::max(joined, 1) || rank < 0 || (!torchrun && !alike)) return std::nullopt;
  return SeparateTasks{torchrun ? "torchrun" : "a launcher of PyTorch (WORLD_SIZE, RANK)", tasks, rank,
                       use_mpirun(tasks) + "; unset WORLD_SIZE if it is one process and not of a job"};
}

std::optional<SeparateTasks> tasks_of_srun() {
  const int tasks = number("SLURM_STEP_NUM_TASKS", 1);
  if (tasks <= 1) return std::nullopt;
  return SeparateTasks{"srun", tasks, number("SLURM_PROCID", 0),
                       "start them with `srun --mpi=pmix` (`srun --mpi=list` shows whether this Slurm has it), or use "
                       "mpirun in place of srun; unset SLURM_STEP_NUM_TASKS if it is one process and not of a step"};
}

std::optional<SeparateTasks> tasks_of_another_mpi() {
  const int tasks = std::max(number("PMI_SIZE", 1), number("MPI_LOCALNRANKS", 1));
  if (tasks <= 1) return std::nullopt;
  return SeparateTasks{"the launcher of another MPI (PMI_SIZE)", tasks,
                       first_number({"PMI_RANK", "PMI_ID", "MPI_LOCALRANKID"}, 0),
                       use_mpirun(tasks) + " of the MPI that lockstep was built with (`lockstep --version` names it)"};
}

std::optional<SeparateTasks> tasks_of_others() {
  for (const Launcher& other : kOthers) {
    const int tasks = number(other.size, 1);
    if (tasks > 1) return SeparateTasks{other.name, tasks, number(other.rank, 0), use_mpirun(tasks)};
  }
  return std::nullopt;
}

}  // namespace

std::optional<SeparateTasks> separate_tasks(int mpi_size) {
  const int joined = mpi_size > 0 ? mpi_size : ranks_to_join();
  if (auto tasks = tasks_of_torchrun(joined)) return tasks;
  // What MPI has joined, or is about to join, is one job.
  if (joined > 1 || is_set("OMPI_COMM_WORLD_SIZE")) return std::nullopt;
  auto tasks = tasks_of_srun();
  if (!tasks) tasks = tasks_of_another_mpi();
  if (!tasks) tasks = tasks_of_others();
  const auto may_still_join = [] { return is_set("PMIX_RANK") || is_set("FLUX_JOB_ID") || mpi_speaks_pmi(); };
  if (tasks && mpi_size == 0 && may_still_join()) return std::nullopt;
  return tasks;
}

void refuse_separate_tasks(int mpi_size) {
  const auto separate = separate_tasks(mpi_size);
  if (!separate) return;
  let_lower_ranks_speak(separate->rank);
  throw AgreedError(Error(ExitCode::launch,
                          fmt::format("{} started {} processes, but MPI does not join them: each would be a job of its "
                                      "own",
                                      separate->launcher, separate->tasks),
                          separate->hint),
                    0);
}

int launcher_rank() {
  if (const auto separate = separate_tasks(0)) return separate->rank;
  const int rank = first_number({"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}, -1);
  if (rank >= 0) return rank;
  // Only in a step of srun does SLURM_PROCID speak of tasks; in the batch shell it is always 0.
  return number("SLURM_STEP_NUM_TASKS", 0) > 0 ? number("SLURM_PROCID", 0) : 0;
}

int launcher_size() { return number("OMPI_COMM_WORLD_SIZE", number("SLURM_STEP_NUM_TASKS", 1)); }

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
