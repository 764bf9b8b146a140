// Bytes that lie in several places, on their way into a file.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <string_view>
#include <vector>

namespace lockstep {

/// Writes pieces one after the other, as if they lay in one place. The pieces must outlive it.
class Pieces {
 public:
  /// A file of at least this many bytes goes past the kernel's cache where the file system can: its writer takes half
  /// of the processor time then, and nobody else's pages are pushed out.
  static constexpr std::size_t kDirectFrom = std::size_t{4} << 20;

  /// Such a file is written in calls of multiples of this, but for the last: what memory, length and place in the file
  /// must be multiples of to go past the cache, on any disk in use.
  static constexpr std::size_t kAlignment = 4096;

  explicit Pieces(std::vector<std::string_view> pieces);

  std::size_t size() const { return size_; }

  /// Writes the next `count` bytes to the end of an empty or so begun file; the same descriptor in every call. False
  /// with errno when not every one of them could be written.
  bool write(int descriptor, std::size_t count);

 private:
  bool write_direct(int descriptor, std::size_t& count);
  std::string_view next_aligned(std::size_t most);
  bool write_from_places(int descriptor, std::size_t count);
  void copy(char* to, std::size_t count);
  void drop(std::size_t count);

  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };
  std::vector<std::string_view> left_;
  std::size_t first_ = 0;
  std::size_t size_ = 0;
  std::size_t written_ = 0;
  bool direct_;
  std::unique_ptr<char, Free> block_;
};

}  // namespace lockstep
