// The world of these tests: a GPU for each rank.
#pragma once

namespace lockstep {

class World;

World& world();

}  // namespace lockstep
