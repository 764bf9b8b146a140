// CIFAR-10 in a form that Lockstep does not read.
#pragma once

#include <optional>
#include <string>

namespace lockstep {

struct OtherForm {
  std::string what;  ///< what lies there, a part of a sentence
  std::string hint;  ///< the command that helps
};

/// What lies in `dir`, or is `dir`, in place of the .bin files: an archive, the Python version, CIFAR-100. Nothing when
/// there is nothing of the kind.
std::optional<OtherForm> look_for_other_forms(const std::string& dir);

}  // namespace lockstep
