#include "lockstep/memory.h"

#include <malloc.h>

namespace lockstep {

void keep_freed_memory() {
#ifdef __GLIBC__
  // Blocks from this size on are mapped one by one and unmapped when freed; 32 MiB is the most that glibc accepts.
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  // How much may lie free at the heap's end before it shrinks, and by how much it grows at least.
  mallopt(M_TRIM_THRESHOLD, 2047 << 20);
  mallopt(M_TOP_PAD, 64 << 20);
#endif
}

}  // namespace lockstep
