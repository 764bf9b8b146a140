// Whether a benchmark's buffers fit before it fills them.
#pragma once

#include <cstdint>

namespace lockstep {

/// Bytes of memory that processes of this host can still take: what Linux calls available, or what the container's
/// control group leaves where that is less. The largest int64_t when the system does not say.
int64_t available_memory();

}  // namespace lockstep
