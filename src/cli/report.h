// How an error reaches the person, and the job its end.
#pragma once

#include <functional>

#include "lockstep/error.h"

namespace lockstep {

class World;

/// The Error that the exception being handled is to a person: itself, what comm/explain.h makes of errors of GPUs and
/// communication, or one with ExitCode::internal and the exception's text.
Error current_error();

/// Collective: runs `work` and gives its exit code. An AgreedError is printed by its rank, and every rank returns its
/// code; anything else ends the whole job at once with one message, since the other ranks may be waiting for this one.
int run_job(World& world, const std::function<int()>& work);

}  // namespace lockstep
