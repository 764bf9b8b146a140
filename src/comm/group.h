// What the process group can do beyond c10d's interface, for the rooms above.
#pragma once

namespace lockstep {

class World;

/// Local. Whether collectives on host memory go on beside the caller's computing. Results do not depend on it.
void set_overlap(World& world, bool on);

/// Local. Whether overlap is worth it here: over a network it hides the time that
/// messages travel; between the ranks of one host there is only copying, which needs a core either way, so it pays when
/// some core would be idle.
bool overlap_pays(World& world);

/// Local. Waits for the collectives under way on host memory, which wait in their futures in any case, but faster.
void finish_collectives(World& world);

}  // namespace lockstep
