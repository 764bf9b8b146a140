// Learning-rate schedules: pure functions of the step, so that a resumed run goes on as if it had never stopped.
#pragma once

#include <cstdint>
#include <string>

namespace lockstep {

enum class ScheduleShape { constant, linear, triangular, cosine };

/// The value of optim.schedule. Throws std::logic_error for another text.
ScheduleShape schedule_shape(const std::string& name);

/// The share of the peak rate in a step (1 … total_steps) of a run.
///
/// The rate rises by the same amount in each step and is at its peak in step P = max(1, warmup_steps): s / P. From
/// there on it stays (constant), falls by the same amount in each step so that the step after the last one would have 0
/// (linear), or falls there along half a cosine. triangular is linear with P = total_steps / 5 where warmup_steps is 0.
/// Beyond total_steps falling rates are 0. In PyTorch: LinearLR(1/P, 1, P-1), then LinearLR(1, 0, T-P+1) or
/// CosineAnnealingLR(T-P+1), joined by SequentialLR at P-1.
double share_of_peak(ScheduleShape shape, int64_t step, int64_t total_steps, int64_t warmup_steps);

}  // namespace lockstep
