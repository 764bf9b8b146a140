// A file of JSON values, one a line: metrics.jsonl.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "log/patient_file.h"

namespace lockstep {

/// Appends lines to a file, which is made if absent. A torn last line, left by a process that was killed, is cut off
/// first.
///
///     JsonLines metrics("runs/one/metrics.jsonl");
///     metrics.write({{"event", "train"}, {"step", 100}, {"train_loss", 2.3}});
///
/// Keys keep their order. A number is the shortest decimal that reads back as the same double, whatever the locale; NaN
/// and the infinities, which JSON cannot say, become null. Bytes that are not UTF-8 become U+FFFD. Each line is one
/// write(2). Throws Error (io) naming the file; the line is then kept and written before the next one, or by flush().
/// Not thread-safe.
class JsonLines {
 public:
  explicit JsonLines(const std::string& path);
  void write(const nlohmann::ordered_json& value);
  void flush() { file_.flush(); }
  const std::string& path() const { return file_.path(); }
  int64_t size() const { return file_.size(); }  ///< bytes, kept lines included

 private:
  PatientFile file_;
};

}  // namespace lockstep
