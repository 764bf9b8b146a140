// A file of JSON values, one a line: metrics.jsonl.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "store/files.h"

namespace lockstep {

/// Appends lines to a file, which is made if absent. A torn last line, left by a process that was killed, is cut off
/// first.
///
///     JsonLines metrics("runs/one/metrics.jsonl");
///     metrics.write({{"event", "train"}, {"step", 100}, {"train_loss", 2.3}});
///
/// Keys keep their order. A number is the shortest decimal that reads back as the same double, whatever the locale; NaN
/// and the infinities, which JSON cannot say, become null. Bytes that are not UTF-8 become U+FFFD. Each line is one
/// write(2). Throws Error (io) naming the file. Not thread-safe.
class JsonLines {
 public:
  explicit JsonLines(const std::string& path);
  void write(const nlohmann::ordered_json& value);
  const std::string& path() const { return file_.path(); }

 private:
  AppendFile file_;
};

}  // namespace lockstep
