// The job that the tests of this program share.
#pragma once

#include "lockstep/world.h"

namespace lockstep {

World& world();

}  // namespace lockstep
