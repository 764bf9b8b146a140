// A log that loses nothing while the disk is full.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "store/files.h"

namespace lockstep {

/// As AppendFile, but what could not be written is kept in memory and written before what comes next.
class PatientFile {
 public:
  explicit PatientFile(AppendFile file) : file_(std::move(file)) {}

  /// Throws Error (io) when the bytes are kept for later.
  void append(std::string_view bytes) {
    kept_ += bytes;
    flush();
  }

  /// Writes what was kept. Throws Error (io).
  void flush() {
    if (kept_.empty()) return;
    file_.append(kept_);
    kept_.clear();
  }

  /// Bytes of the file, with those that are kept.
  int64_t size() const { return file_.size() + static_cast<int64_t>(kept_.size()); }
  const std::string& path() const { return file_.path(); }
  AppendFile& file() { return file_; }

 private:
  AppendFile file_;
  std::string kept_;
};

}  // namespace lockstep
