// What CUDA says of the GPUs of this process.
#pragma once

#include "world/gpus.h"

namespace lockstep {

/// Never throws; starts no context on any GPU.
VisibleGpus visible_gpus();

}  // namespace lockstep
