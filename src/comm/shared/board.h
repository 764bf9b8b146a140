// What the ranks of a host tell each other about the values that they show.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "comm/shared/memory.h"

namespace lockstep {

/// In the fixed part of each rank's memory: a line for each piece under way, which that rank writes and the others
/// read, and places for copies of values that lie elsewhere. A piece is a part of a collective; pieces have one
/// numbering on all ranks, and so has a rank's way through a piece, in steps that only grow. All but numbers() is used
/// by one thread at a time.
class SharedBoard {
 public:
  static constexpr int64_t kPlaceBytes = int64_t{1} << 20;
  /// The last step of every piece: the rank reads nothing of the others' any more.
  static constexpr uint64_t kDone = (uint64_t{1} << 24) - 1;

  /// What a rank says of a piece with its first step.
  struct Piece {
    uint64_t offset = 0;  ///< of the values in its memory
    int64_t bytes = 0;    ///< of the whole collective
    int32_t type = 0;
    int32_t op = 0;
    int32_t copied = 0;  ///< 1: in a place of this board; 0: where the rank itself works on them
  };

  explicit SharedBoard(std::shared_ptr<SharedMemory> memory);

  SharedMemory& memory() { return *memory_; }

  /// The first of `count` new numbers. Any thread, with equal counts in the same order on all ranks.
  uint64_t numbers(int64_t count) { return next_.fetch_add(static_cast<uint64_t>(count)); }

  /// Whether this rank may say something of the piece: all are done with the one that had its line before.
  bool line_is_free(uint64_t number) const;
  /// kPlaceBytes for a copy, until all ranks are done with the piece; null when there are none now.
  char* place(uint64_t number);
  void say(uint64_t number, const Piece& piece, uint64_t step);
  void step(uint64_t number, uint64_t step);

  /// How far a rank is; 0: it has not begun.
  uint64_t step_of(int rank, uint64_t number) const;
  bool all_done(uint64_t number) const;
  /// After that rank's first step and before this rank's last.
  const Piece& piece_of(int rank, uint64_t number) const;
  const char* values(int rank, const Piece& piece) const { return memory_->of(rank) + piece.offset; }

  /// Memory for passing sums; its content lasts until the next call with this `index`.
  char* scratch(size_t index, size_t bytes);

 private:
  struct Line;
  const Line& line(int rank, uint64_t number) const;
  Line& my_line(uint64_t number);

  std::shared_ptr<SharedMemory> memory_;
  std::atomic<uint64_t> next_;
  uint64_t oldest_;              // piece that is not done, or an older one
  std::vector<uint64_t> users_;  // of each place: the last piece that had it
  std::vector<std::vector<char>> scratch_;
};

}  // namespace lockstep
