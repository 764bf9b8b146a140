// One maker for each network; the registry is model.cpp.
#pragma once

#include "lockstep/model.h"

namespace lockstep {

std::shared_ptr<Net> make_airbench94();
std::shared_ptr<Net> make_sjnet();

}  // namespace lockstep
