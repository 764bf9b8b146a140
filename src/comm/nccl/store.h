// The store by which the ranks' NCCL find each other: c10d's TCPStore, started on rank 0.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <string>
#include <torch/csrc/distributed/c10d/Store.hpp>

namespace lockstep {

class World;

struct StartedStore {
  c10::intrusive_ptr<c10d::Store> store;
  std::string address;  ///< "eth0 10.0.0.3 port 41234", the same on all ranks
};

/// Collective: rank 0 listens on one address of its host, on a port that the kernel chooses, and there only; all ranks
/// have shown that they reach it before it is taken (interfaces.h says which are tried). `interface` forces one.
/// `deadline_s` (0: none) is how long a rank waits for a key. Throws AgreedError (launch) naming addresses and ranks
/// when no address is reached by all.
StartedStore start_store(World& world, const std::string& interface, double deadline_s);

}  // namespace lockstep
