// What the launcher's environment says, before or against MPI.
#pragma once

#include <string>

namespace lockstep {

/// Rank from the launcher's environment (Open MPI, PMIx, Slurm), 0 when started alone. For what is said before MPI
/// starts.
int launcher_rank();

/// Ranks of the job, from the same environment; 1 when started alone or not known.
int launcher_size();

/// Tasks that srun started in this step beside this one, when MPI does not know of them; 0 when all is well.
/// `mpi_size` is what MPI says. Under mpirun the environment of srun is that of mpirun's own daemons and says nothing.
int unseen_tasks(int mpi_size);

/// Whether a person watches standard output. mpirun gives its ranks a pseudo-terminal whatever it writes to itself, so
/// under mpirun its own output is asked: that of the parent process. On another host than mpirun's the answer is no.
bool stdout_is_terminal();

}  // namespace lockstep
