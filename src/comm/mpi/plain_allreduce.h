// MPI's own blocking collectives as any MPI program calls them: what a benchmark holds ours against.
#pragma once

#include <cstdint>
#include <memory>

namespace lockstep {

class World;

/// A communicator of all ranks of the job that is nobody else's, so nothing of World's is on its way there. Built and
/// destroyed on every rank, within the life of the World. Called from the thread that built the World while none of
/// World's own operations is under way. Errors of MPI throw Error (rank_lost).
class PlainMpi {
 public:
  explicit PlainMpi(World& world);  ///< collective
  ~PlainMpi();
  PlainMpi(const PlainMpi&) = delete;
  PlainMpi& operator=(const PlainMpi&) = delete;

  /// Collective: each of the `count` values becomes its sum over all ranks; MPI_Allreduce in place, in parts of 2^30
  /// values where an int cannot count them.
  void allreduce(float* values, int64_t count);

  /// Collective: MPI_Barrier. Ranks leave it within microseconds of each other where their cores are their own.
  void barrier();

 private:
  struct Communicator;
  std::unique_ptr<Communicator> communicator_;
};

}  // namespace lockstep
