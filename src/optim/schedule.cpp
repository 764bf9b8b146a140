#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>

namespace lockstep {

ScheduleShape schedule_shape(const std::string& name) {
  if (name == "constant") return ScheduleShape::constant;
  if (name == "linear") return ScheduleShape::linear;
  if (name == "triangular") return ScheduleShape::triangular;
  if (name == "cosine") return ScheduleShape::cosine;
  throw std::logic_error("no schedule is called " + name);
}

double share_of_peak(ScheduleShape shape, int64_t step, int64_t total_steps, int64_t warmup_steps) {
  constexpr int64_t kRisingPart = 5;  // of triangular: the first fifth of the run
  const bool by_share = shape == ScheduleShape::triangular && warmup_steps == 0;
  const int64_t peak = std::max<int64_t>(1, by_share ? total_steps / kRisingPart : warmup_steps);
  if (step < peak) return static_cast<double>(step) / static_cast<double>(peak);
  if (shape == ScheduleShape::constant || step == peak) return 1;
  if (step > total_steps) return 0;
  const auto falling = static_cast<double>(total_steps - peak + 1);
  if (shape == ScheduleShape::cosine) {
    return 0.5 * (1 + std::cos(std::numbers::pi * static_cast<double>(step - peak) / falling));
  }
  return static_cast<double>(total_steps - step + 1) / falling;
}

}  // namespace lockstep
