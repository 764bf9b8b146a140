// Where the data is, when nobody says.
#pragma once

#include <string>

namespace lockstep {

/// `given` if not empty, else $LOCKSTEP_DATA, else the first of data/ and ../shared/data that holds CIFAR-10 (itself or
/// below it, as Cifar10::find looks), else "data". Relative to the current folder. The scripts look in the same places.
std::string data_folder(const std::string& given);

}  // namespace lockstep
