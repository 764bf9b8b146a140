// Where a rank computes.
#pragma once

#include <string>

namespace lockstep {

/// What a user asks for: `automatic` takes a GPU for each rank where every rank sees one, and the CPU where none does.
enum class DeviceWish { automatic, cpu, cuda };

/// "auto", "cpu" or "cuda". Throws Error (usage) for anything else.
DeviceWish device_wish(const std::string& text);

}  // namespace lockstep
