#include "world/synchronize.h"

#include <c10/core/impl/VirtualGuardImpl.h>

namespace lockstep {

void synchronize(c10::Device device) {
  if (!device.is_cuda()) return;
  const c10::impl::VirtualGuardImpl guard(device.type());
  guard.synchronizeStream(guard.getStream(device));
}

}  // namespace lockstep
