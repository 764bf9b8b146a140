#include "train/fault.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "lockstep/error.h"

namespace lockstep {

Fault::Fault(int rank) {
  const char* text = std::getenv("LOCKSTEP_FAULT");
  if (text == nullptr || *text == '\0') return;
  int at_rank = -1;
  long long step = 0;
  int used = 0;
  text_ = text;
  if (std::sscanf(text, "throw@%d:%lld%n", &at_rank, &step, &used) != 2 || text[used] != '\0') {
    throw Error(ExitCode::usage, fmt::format("LOCKSTEP_FAULT={} is no fault", text_),
                "write LOCKSTEP_FAULT=throw@RANK:STEP, or unset it");
  }
  if (at_rank == rank) step_ = step;
}

void Fault::in_step(int64_t step) const {
  if (step == step_) throw std::runtime_error(fmt::format("the planted fault {} in step {}", text_, step));
}

}  // namespace lockstep
