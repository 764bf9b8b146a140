// What the launcher's environment says, before or against MPI.
#pragma once

#include <optional>
#include <string>

namespace lockstep {

/// Rank from the launcher's environment (Open MPI, PMIx, Slurm), 0 when started alone. For what is said before MPI
/// starts.
int launcher_rank();

/// Ranks of the job, from the same environment; 1 when started alone or not known.
int launcher_size();

/// Processes that a launcher started beside this one, and that MPI does not join into one job.
struct SeparateTasks {
  std::string launcher;  ///< as people call it
  int tasks = 0;
  int rank = 0;      ///< of this process, by the launcher's own count
  std::string hint;  ///< the command that joins them
};

/// Whether this process is one of several that MPI does not join: torchrun, the launcher of another MPI, srun without
/// PMIx. Nothing when all is well, and when one process was started. `mpi_size` is what MPI says, 0 before it starts.
/// Variables that say 1, or those of a batch script that is no task itself, are no launcher's.
/// Under mpirun the variables of srun and of another MPI are those of mpirun's own daemons and say nothing.
std::optional<SeparateTasks> separate_tasks(int mpi_size);

/// Throws, on all of these processes, an AgreedError that the lowest is to tell; on the others only after a second or
/// two, so that a launcher that ends all when one has ended does not end the lowest before it has spoken.
void refuse_separate_tasks(int mpi_size);

/// Whether a person watches standard output. mpirun gives its ranks a pseudo-terminal whatever it writes to itself, so
/// under mpirun its own output is asked: that of the parent process. On another host than mpirun's the answer is no.
bool stdout_is_terminal();

}  // namespace lockstep
