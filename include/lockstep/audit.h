// The replica audit: do all ranks still hold the same values, bit for bit?
#pragma once

#include <cstdint>
#include <string>

#include "lockstep/weights.h"

namespace lockstep {

class World;

/// 32 hexadecimal digits that name a state: its tensors' names, order, dtypes, shapes and every bit of their values.
/// NaN payloads and the sign of zero count; strides and device do not. Local. Throws Error (ExitCode::internal) for a
/// tensor that is not dense.
std::string state_digest(const NamedTensors& state);

/// Collective: compares `state` over all ranks and returns its digest, as state_digest gives it.
///
///     if (step % 100 == 0) {
///       ddp.sync_buffers();  // each rank's batch norms count its own images
///       audit_replicas(world, state_dict(*net), step);
///     }
///
/// `state` is what the ranks are meant to hold alike: parameters, synchronised buffers, optimizer state. Names may not
/// hold zero bytes. `step`, the same on every rank, is for the message.
///
/// When ranks differ, every rank throws the same AgreedError (ExitCode::diverged) naming the first tensor that differs
/// and the ranks and hosts that are odd: what most ranks hold is taken as right, and on a tie what the lowest rank
/// holds. Its `rank()` is the lowest odd one. Other numbers of tensors and other names are differences too. What
/// state_digest throws on some rank is thrown on all, as an AgreedError.
///
/// Costs the digest, and one all-gather of 32 bytes a rank while all is well.
std::string audit_replicas(World& world, const NamedTensors& state, int64_t step);

}  // namespace lockstep
