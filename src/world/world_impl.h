// What World keeps; for the world and comm rooms only.
#pragma once

#include <mpi.h>

#include <functional>
#include <memory>
#include <string>

#include "lockstep/world.h"
#include "world/comm_thread.h"
#include "world/gpus.h"

namespace lockstep {

struct World::Impl {
  MPI_Comm comm = MPI_COMM_NULL;      // a duplicate of MPI_COMM_WORLD that returns errors
  MPI_Comm messages = MPI_COMM_NULL;  // another, for the messages that our own collectives are made of
  std::unique_ptr<CommThread> comm_thread;
  int rank = 0;
  int size = 1;
  int local_rank = 0;
  int local_size = 1;
  int hosts = 1;
  std::string host;
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

  /// Runs one of MPI's nonblocking collectives to its end.
  void run(const char* name, std::size_t bytes, RequestOperation::Post post);
  template <typename T>
  void sum(std::span<T> values, MPI_Datatype type);
};

/// Throws Error (rank_lost) with MPI's own text when `code` is not MPI_SUCCESS.
void check_mpi(int code, const char* operation);

}  // namespace lockstep
