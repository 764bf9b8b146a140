// How long this process has been running.
#pragma once

namespace lockstep {

/// Seconds since the process was started by the kernel (to 10 ms); 0 where /proc does not tell.
double seconds_since_exec();

}  // namespace lockstep
