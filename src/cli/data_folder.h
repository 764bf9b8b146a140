// Where the data is, when nobody says.
#pragma once

#include <string>

namespace lockstep {

/// `given` if not empty, else $LOCKSTEP_DATA, else "data".
std::string data_folder(const std::string& given);

}  // namespace lockstep
