#include "comm/mpi/plain_allreduce.h"

#include <algorithm>
#include <exception>

#include "world/world_impl.h"

namespace lockstep {

struct PlainMpi::Communicator {
  MPI_Comm comm = MPI_COMM_NULL;
  int exceptions_at_start = std::uncaught_exceptions();
};

// The World is proof that MPI runs; its ranks are those of MPI_COMM_WORLD.
PlainMpi::PlainMpi(World&) : communicator_(std::make_unique<Communicator>()) {
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &communicator_->comm), "MPI_Comm_dup");
  MPI_Comm_set_errhandler(communicator_->comm, MPI_ERRORS_RETURN);
}

PlainMpi::~PlainMpi() {
  // Freeing is collective: with an exception on its way the others may never come.
  if (std::uncaught_exceptions() > communicator_->exceptions_at_start) return;
  MPI_Comm_free(&communicator_->comm);
}

void PlainMpi::allreduce(float* values, int64_t count) {
  constexpr int64_t kMost = int64_t{1} << 30;
  for (int64_t done = 0; done < count; done += kMost) {
    const int part = static_cast<int>(std::min(kMost, count - done));
    check_mpi(MPI_Allreduce(MPI_IN_PLACE, values + done, part, MPI_FLOAT, MPI_SUM, communicator_->comm),
              "MPI_Allreduce");
  }
}

void PlainMpi::barrier() { check_mpi(MPI_Barrier(communicator_->comm), "MPI_Barrier"); }

}  // namespace lockstep
