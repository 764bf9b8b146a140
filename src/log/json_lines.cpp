#include "log/json_lines.h"

#include <nlohmann/json.hpp>

namespace lockstep {

JsonLines::JsonLines(const std::string& path) : file_(AppendFile(path, AppendFile::Mode::append)) {
  file_.file().cut_torn_line();
}

void JsonLines::write(const nlohmann::ordered_json& value) {
  std::string line = value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  line += '\n';
  file_.append(line);
}

}  // namespace lockstep
