// What the process group can do beyond c10d's interface, for the rooms above.
#pragma once

#include <ATen/core/Tensor.h>

namespace lockstep {

class World;

/// Local. Whether collectives on host memory go on beside the caller's computing. Results do not depend on it.
void set_overlap(World& world, bool on);

/// Local, alike on all ranks. For measurements: without, all-reduces on host memory end at once and leave each rank its
/// own values.
void set_sending(World& world, bool on);

/// Local. Whether overlap is worth it here: over a network it hides the time that
/// messages travel; between the ranks of one host there is only copying, which needs a core either way, so it pays when
/// some core would be idle.
bool overlap_pays(World& world);

/// Local, but collective where process_group has not been called before. Moves the storage of a tensor on the host to
/// memory that the other ranks of the host read, where there is such: its all-reduces need no copies then. All views of
/// the storage follow; nobody may hold an address in it.
void share_storage(World& world, const at::Tensor& tensor);

/// Local. Waits for the collectives under way on host memory, which wait in their futures in any case, but faster.
void finish_collectives(World& world);

}  // namespace lockstep
