// Recorded work as a CUDA graph, by LibTorch's own class, which keeps the memory that the work uses.
#pragma once

#include <functional>
#include <memory>

#include "world/recorded_work.h"

namespace lockstep {

std::unique_ptr<RecordedWork> record_graph(const std::function<void(RecordedWork&)>& work);

}  // namespace lockstep
