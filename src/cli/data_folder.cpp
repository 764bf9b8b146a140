#include "cli/data_folder.h"

#include <cstdlib>

namespace lockstep {

std::string data_folder(const std::string& given) {
  if (!given.empty()) return given;
  const char* variable = std::getenv("LOCKSTEP_DATA");
  return variable != nullptr && *variable != '\0' ? variable : "data";
}

}  // namespace lockstep
