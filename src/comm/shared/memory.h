// Memory of each rank that the other ranks of the host can read.
#pragma once

#include <c10/core/Allocator.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

namespace lockstep {

class World;

/// One mapping of equal size for each rank: this rank writes to its own and reads the others'. Pages take memory when
/// they are first written to. Nothing has a name in a file system, so nothing is left behind, however a rank ends.
///
/// The first `kFixedBytes` of a mapping are for whoever made it; the rest is handed out by take().
class SharedMemory : public std::enable_shared_from_this<SharedMemory> {
 public:
  static constexpr size_t kFixedBytes = size_t{17} << 20;

  /// Collective. Null on every rank when the ranks are on several hosts or one rank only, when the environment variable
  /// LOCKSTEP_SHARED_MEMORY is "off" on one of them, or when one cannot read another's memory (in containers of their
  /// own, for one).
  static std::shared_ptr<SharedMemory> make(World& world);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  int rank() const { return rank_; }
  int size() const { return static_cast<int>(mappings_.size()); }
  char* mine() { return mappings_[static_cast<size_t>(rank_)]; }
  const char* of(int rank) const { return mappings_[static_cast<size_t>(rank)]; }

  /// Local: memory on a page of its own, not initialised; null when there is not so much left. It may outlive this
  /// object's other owners. Any thread.
  c10::DataPtr take(size_t bytes);
  /// Where in mine() these bytes lie, when take() gave them.
  std::optional<size_t> offset_of(const void* data, size_t bytes) const;

 private:
  SharedMemory(int rank, std::vector<char*> mappings);
  void give_back(size_t first);

  int rank_;
  std::vector<char*> mappings_;
  std::mutex mutex_;
  std::map<size_t, size_t> free_;   // offset, bytes; no two touch
  std::map<size_t, size_t> taken_;  // the same
};

}  // namespace lockstep
