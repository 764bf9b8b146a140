// What World keeps; for the world and comm rooms only.
#pragma once

#include <mpi.h>

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "lockstep/world.h"
#include "world/collective.h"
#include "world/comm_thread.h"
#include "world/gpus.h"
#include "world/watchdog.h"
#include "world/whereabouts.h"

namespace lockstep {

/// Messages between hosts go out whole and at once up to this length, their header included (start_mpi).
constexpr int kWholeMessageBytes = 320 * 1024;

/// Longer data travel in pieces: MPI counts in an int.
constexpr int64_t kLongestMessage = int64_t{1} << 30;

struct World::Impl {
  MPI_Comm comm = MPI_COMM_NULL;      // a duplicate of MPI_COMM_WORLD: headers of collectives, callers' messages
  MPI_Comm messages = MPI_COMM_NULL;  // another: messages of our own collectives, and the data of MPI's
  MPI_Comm roll_call = MPI_COMM_NULL;
  std::unique_ptr<CommThread> comm_thread;
  Whereabouts where;
  std::mutex flight_mutex;
  std::string flight_folder;  // under the mutex: where flight-rank-N.json goes; empty: nowhere
  std::unique_ptr<Watchdog> watchdog;
  int rank = 0;
  int size = 1;
  int local_rank = 0;
  int local_size = 1;
  int hosts = 1;
  std::string host;
  std::vector<std::string> hosts_of_ranks;
  int cores = 1;
  int sharers = 1;  // local ranks whose affinity mask overlaps ours, this one included
  int threads = 1;
  c10::Device device = c10::kCPU;
  Gpu gpu;                // where device is one
  std::string interface;  // as the user named it
  std::string meeting;    // where the ranks' NCCL found each other
  std::shared_ptr<void>
      process_group;                 // a c10::intrusive_ptr<c10d::ProcessGroup>; comm makes it, and it goes before MPI
  std::function<void()> before_end;  // what comm does at an orderly end, before the group goes
  int exceptions_at_start = 0;
  bool chose_deadline = false;  // the program named one
  std::shared_ptr<const char> life =
      std::make_shared<const char>();         // a weak one tells those who may outlive the World
  int64_t longest_message = kLongestMessage;  // bytes; tests have shorter ones

  /// Whether the ranks' threads leave a core free for each rank.
  bool spare_core() const { return cores >= (threads + 1) * sharers; }
  /// Runs a collective to its end; gives the values of all ranks.
  std::vector<int64_t> run(const Call& call, Collective::Next next = nullptr, int64_t value = 0);
  /// Collective, at an orderly end: waits for what is under way, and until all ranks are here. Ends the process when
  /// that does not come about: there is nobody to throw to.
  void end_together(World& world) noexcept;
  /// flight-rank-N.json, where a folder is known. Any thread; never throws.
  void write_flight(const std::string& reason) noexcept;
  template <typename T>
  void sum(std::span<T> values, MPI_Datatype type, const char* type_name);
};

/// Throws Error (rank_lost) with MPI's own text when `code` is not MPI_SUCCESS.
void check_mpi(int code, const char* operation);

}  // namespace lockstep
