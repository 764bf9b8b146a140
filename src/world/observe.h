// Watching communication and its start, for the rooms above.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

namespace lockstep {

class World;

/// Told of each operation at its end, in any thread: name, bytes, when it was submitted and when it ended. Be quick.
using CommunicationObserver =
    std::function<void(const std::string& name, int64_t bytes, std::chrono::steady_clock::time_point begin,
                       std::chrono::steady_clock::time_point end)>;

/// Local: replaces the observer; null: none.
void observe_communication(World& world, CommunicationObserver observer);

/// Local: where the ranks' NCCL found each other ("eth0 10.0.0.3 port 41234"); empty without GPUs.
std::string meeting_place(World& world);

}  // namespace lockstep
