// The job that this process is part of: its MPI ranks, from start to end.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <c10/core/Device.h>
#include <c10/util/intrusive_ptr.h>

#include "lockstep/device.h"
#include "lockstep/error.h"

namespace c10d {
class ProcessGroup;
}

namespace lockstep {

/// An error that all ranks know of: thrown on every rank by World::together, so the job can end in order.
class AgreedError : public Error {
 public:
  AgreedError(const Error& error, int rank) : Error(error), rank_(rank) {}
  int rank() const { return rank_; }  ///< the rank it happened on, which reports it

 private:
  int rank_;
};

/// Starts MPI when built and ends it when destroyed, so there is at most one World in a process, ever.
///
///     lockstep::World world;                       // under mpirun, srun, or alone (one rank)
///     auto mean = ...; world.process_group()->allreduce(...);
///
/// Processes that MPI does not join, such as those of torchrun or of srun without PMIx, are refused before MPI starts:
/// the constructor throws an AgreedError with ExitCode::launch on each of them.
///
/// A World is used from the thread that built it. Errors of collective calls are thrown as `Error`: rank_lost, or
/// internal when the ranks make different collectives or one has left the job in order; its message names the calls of
/// the ranks. After an error every further collective fails the same way.
///
/// Destroying a World is collective: it waits for what is under way and for all ranks. Where the others wait for this
/// rank in another collective, they and it end with an error within seconds. While an exception unwinds, or after an
/// error, it waits for nobody and tells the other ranks, whose collectives then fail: call `abort` to end them at once.
class World {
 public:
  struct Options {
    /// LibTorch's threads on this rank; 0: the cores of the affinity mask divided by the local ranks that share them.
    int threads = 0;
    double deadline_s = 1800;  ///< as set_deadline; 0: for ever
    /// Seconds that the start of MPI may take: it waits for every rank. Then the process ends with code 75 and a
    /// message. 0: for ever.
    double start_deadline_s = 1200;
    /// As choose_device. The CPU unless asked for, so that a program which knows nothing of GPUs runs as it is.
    DeviceWish device = DeviceWish::cpu;
    std::string interface = {};
  };

  /// Collective: every rank of the job builds its World. Throws Error (ExitCode::launch) when MPI was initialised
  /// before, when it cannot serialise calls from several threads, or when the launcher started more tasks than MPI sees
  /// (ranks that each think they are alone).
  World();
  explicit World(const Options& options);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  int rank() const;                 ///< 0 … size() - 1
  int size() const;                 ///< number of ranks in the job, at least 1
  int local_rank() const;           ///< rank among the ranks of this host
  int local_size() const;           ///< number of ranks on this host
  int hosts() const;                ///< number of hosts in the job
  const std::string& host() const;  ///< name of this host
  int cores() const;                ///< cores in the affinity mask of this rank
  int threads() const;              ///< LibTorch's intra-op threads on this rank
  void set_threads(int threads);    ///< local; 0 as in Options

  /// Where this rank computes: the CPU, or the GPU that choose_device gave it. Put modules and inputs there.
  c10::Device device() const;
  /// For people: "cpu", or "cuda:1 (NVIDIA H100 80GB HBM3)".
  std::string device_text() const;

  /// Collective, before process_group and before anything is computed (LibTorch then remembers that there is no CUDA):
  /// gives each rank a GPU of its own (or all the CPU) and makes it the current one. The first GPU that a rank sees and
  /// no lower rank of its host has taken: the one at its local rank where all see the same, its only one where a
  /// launcher gave each task one. Throws AgreedError (launch) with a table of ranks, hosts and GPUs when a rank has
  /// none of its own, or cannot use it. `interface` names the network interface on which the ranks find each other;
  /// empty: one over which all hosts reach rank 0's.
  void choose_device(DeviceWish wish, const std::string& interface = "");

  /// The c10d process group with all ranks, made on the first call (collective), alive as long as the World: over MPI
  /// for tensors in host memory and, with GPUs, over NCCL for tensors there. With GPUs its making is a check as well:
  /// it throws AgreedError (launch, rank_lost) when versions differ, the hosts do not reach each other, or a small sum
  /// over all ranks comes out wrong or not in time. Include <torch/csrc/distributed/c10d/ProcessGroup.hpp> to use it.
  const c10::intrusive_ptr<c10d::ProcessGroup>& process_group();

  /// Local: seconds that a collective or message may wait for other ranks before it fails with Error (rank_lost), and
  /// with it all that follow; 0: for ever. Half an hour where nobody says otherwise. Holds for the calls after it, on
  /// the process group too. When it has passed, the other ranks are asked what they do, and the error names those that
  /// do not answer, or have not come to this operation and what they do instead. The same seconds are the limit of what
  /// doing() was told last.
  void set_deadline(double seconds);

  /// Local: what this rank does from now on, for other ranks' messages and the flight record. `what` is a literal such
  /// as "forward"; a call costs some ten nanoseconds. With a deadline, the job ends with code 75 when the next call
  /// takes longer than that to come; `doing(nullptr, 0)` lifts this.
  void doing(const char* what, int64_t step);
  /// Local: it is still at it, and alive: the time begins again.
  void still_doing();

  /// Local: the folder for flight-rank-N.json, the last 200 operations of each rank that can still write it when the
  /// job fails.
  void set_flight_folder(const std::string& folder);

  /// Local: seconds that this rank's threads have spent waiting for communication so far.
  double comm_wait_s() const;

  /// Collective: returns when every rank has called it.
  void barrier();

  /// Collective: the texts of all ranks in rank order, on every rank.
  std::vector<std::string> all_gather(const std::string& text);

  /// Collective: the `bytes` bytes at `data` on `root` replace those on all other ranks.
  void broadcast(void* data, std::size_t bytes, int root = 0);

  /// Collective: each value becomes its sum over all ranks, added in its own type. Lengths must be equal: where they
  /// are not, every rank throws Error (internal) that names them; broadcast does so too.
  void sum(std::span<double> values);
  void sum(std::span<int64_t> values);

  /// Collective: runs `work` on this rank, then agrees: when it threw on any rank, every rank throws AgreedError with
  /// the lowest such rank's error. Nothing in `work` may be collective.
  void together(const std::function<void()>& work);

  /// Local: ends the whole job with `code`. When MPI_Abort does not end this process within
  /// `grace_s` seconds, `_exit(code)` does.
  [[noreturn]] void abort(int code, double grace_s = 5) noexcept;

  struct Impl;
  Impl& impl() { return *impl_; }  ///< for Lockstep's own rooms

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep
