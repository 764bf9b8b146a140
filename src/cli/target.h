// What RUN|FILE on a command line means.
#pragma once

#include <string>

#include "lockstep/settings.h"

namespace lockstep {

struct Target {
  std::string weights;  ///< the file of weights
  std::string run;      ///< the run folder it belongs to, empty when none is known
  Settings settings;    ///< of that run, else the defaults
};

/// A run folder (its last weights, as last_weights says) or a file. Throws Error (missing) when there is neither.
Target find_target(const std::string& run_or_file);

}  // namespace lockstep
