// The replica audit for who has the digests already.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace lockstep {

class World;

using NamedDigests = std::vector<std::pair<std::string, std::string>>;

/// Collective, with audit_replicas on other ranks or with itself: the same, of tensors whose names and digests (of
/// digest_tensor) `digests` gives. What that throws is thrown on all ranks.
std::string audit_digests(World& world, const std::function<NamedDigests()>& digests, int64_t step);

}  // namespace lockstep
