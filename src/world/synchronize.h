// Waiting for a device.
#pragma once

#include <c10/core/Device.h>

namespace lockstep {

/// Local: returns when the device has done what this thread gave it (its current stream); at once on the CPU.
void synchronize(c10::Device device);

}  // namespace lockstep
