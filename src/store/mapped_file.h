// Files mapped for reading, and what happens when they are cut short while they are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>

#include "lockstep/error.h"
#include "store/files.h"

namespace lockstep {

/// The bytes of a file, mapped read-only and shared. A file that is deleted or replaced by a rename stays as it was;
/// one that is cut short loses its last pages, and touching one of those is a SIGBUS: see LostPages.
class MappedFile {
 public:
  /// Maps the first `size` bytes of the open `file`, at least one. Throws Error (io).
  MappedFile(std::string path, Descriptor file, std::size_t size);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  const uint8_t* bytes() const { return bytes_; }
  std::size_t size() const { return size_; }

  /// Why the byte at `offset` cannot be read any more: Error damaged when the file is shorter now, else io.
  Error why_lost(std::size_t offset) const;

 private:
  std::string path_;
  Descriptor file_;
  const uint8_t* bytes_ = nullptr;
  std::size_t size_ = 0;
};

/// While it lives, a thread that touches a lost page of a MappedFile stands still, and `lost` is called with
/// why_lost() in a thread of its own, where it can do what a signal handler may not. It must end the process. Any other
/// SIGBUS is left to the handler that was there before. One at a time.
///
///     const LostPages watch([&](const Error& error) { end_job(world, error); });
class LostPages {
 public:
  explicit LostPages(std::function<void(const Error&)> lost);
  ~LostPages();
  LostPages(const LostPages&) = delete;
  LostPages& operator=(const LostPages&) = delete;

 private:
  void loop();

  std::function<void(const Error&)> lost_;
  std::thread thread_;
};

}  // namespace lockstep
