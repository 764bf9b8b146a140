#include "train/fault.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <stdexcept>

#include "lockstep/error.h"

namespace lockstep {

Fault::Fault(int rank) {
  const char* text = std::getenv("LOCKSTEP_FAULT");
  if (text == nullptr || *text == '\0') return;
  static const std::map<std::string, Kind> kinds = {{"throw", Kind::throws}, {"nan", Kind::nan}, {"flip", Kind::flip}};
  int at_rank = -1;
  long long step = 0;
  int used = 0;
  text_ = text;
  const size_t at = text_.find('@');
  const auto kind = kinds.find(text_.substr(0, at));
  if (at == std::string::npos || kind == kinds.end() ||
      std::sscanf(text + at, "@%d:%lld%n", &at_rank, &step, &used) != 2 ||
      text[at + static_cast<size_t>(used)] != '\0') {
    throw Error(ExitCode::usage, fmt::format("LOCKSTEP_FAULT={} is no fault", text_),
                "write LOCKSTEP_FAULT=KIND@RANK:STEP with throw, nan or flip, or unset it");
  }
  kind_ = kind->second;
  if (at_rank == rank) step_ = step;
}

void Fault::in_step(int64_t step) const {
  if (due(Kind::throws, step)) throw std::runtime_error(fmt::format("the planted fault {} in step {}", text_, step));
}

}  // namespace lockstep
