// How an error reaches the person, and the job its end.
#pragma once

#include <functional>

#include "comm/explain.h"

namespace lockstep {

class World;

/// Collective: runs `work` and gives its exit code. An AgreedError is printed by its rank, and every rank returns its
/// code; anything else ends the whole job at once with one message, since the other ranks may be waiting for this one.
int run_job(World& world, const std::function<int()>& work);

}  // namespace lockstep
