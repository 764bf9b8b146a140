#include "comm/shared/allreduce.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "lockstep/error.h"
#include "world/world_impl.h"

namespace lockstep {
namespace {

// While others read one block the next is made: small enough for that, and large enough that telling costs nothing.
constexpr int64_t kBlockBytes = 64 * 1024;
// Up to here each rank adds up everything itself.
constexpr int64_t kFewBytes = 4096;
// Copies shown before those that are being added up have left the cache.
constexpr size_t kCopiesAhead = 2;
// What one look may add and copy before others get their turn.
constexpr int64_t kBytesOfALook = 4 << 20;
// Parts begin on cache lines, whatever the type: sums of others are slower.
constexpr int64_t kAlignedElements = 64;
// A look that finds nothing does not call MPI, which may have messages that others wait for; now and then it does.
constexpr uint64_t kLooksPerCall = 16;

// One pass where MPI_Reduce_local, which adds in place, would take two. `to` may be one of the others.
void add_floats(const char* first, const char* second, char* to, int64_t count) {
  using Floats [[gnu::vector_size(16)]] = float;
  const auto add = [&](auto a, auto b, int64_t at) {
    std::memcpy(&a, first + at, sizeof a);
    std::memcpy(&b, second + at, sizeof b);
    a = a + b;
    std::memcpy(to + at, &a, sizeof a);
  };
  const int64_t bytes = count * static_cast<int64_t>(sizeof(float));
  int64_t at = 0;
#pragma GCC unroll 4
  for (; at + static_cast<int64_t>(sizeof(Floats)) <= bytes; at += sizeof(Floats)) add(Floats(), Floats(), at);
  for (; at < bytes; at += sizeof(float)) add(float(), float(), at);
}

}  // namespace

SharedAllreduce::SharedAllreduce(Options options)
    : MpiOperation("all-reduce", options.buffer.numel() * options.buffer.element_size(), options.call),
      my_(std::move(options)),
      board_(*my_.board),
      rank_(board_.memory().rank()),
      size_(board_.memory().size()),
      data_(static_cast<char*>(my_.buffer.data_ptr())),
      element_bytes_(my_.buffer.element_size()),
      block_(kBlockBytes / element_bytes_) {
  const int64_t count = my_.buffer.numel();
  const int64_t most = SharedBoard::kPlaceBytes / element_bytes_;
  pieces_.resize(static_cast<size_t>((count + most - 1) / most));
  uint64_t number = board_.numbers(static_cast<int64_t>(pieces_.size()));
  int64_t first = 0;
  for (Piece& piece : pieces_) {
    piece.number = number++;
    piece.range = {first, std::min(most, count - first)};
    first += most;
  }
}

void SharedAllreduce::start() {
  budget_ = kBytesOfALook;
  while (shown_ < std::min(pieces_.size(), kCopiesAhead) && show(shown_)) ++shown_;
}

bool SharedAllreduce::poll() {
  budget_ = kBytesOfALook;
  for (;;) {
    const int64_t before = budget_;
    while (shown_ < pieces_.size() && (shown_ < added_ + kCopiesAhead || pieces_[added_].copy == nullptr) &&
           show(shown_)) {
      ++shown_;
    }
    while (added_ < shown_ && add_up(added_)) ++added_;
    while (taken_ < added_ && take(taken_)) ++taken_;
    while (left_ < taken_ && leave(left_)) ++left_;
    if (budget_ == before || budget_ <= 0) break;  // the others have made nothing more
  }
  if (budget_ == kBytesOfALook && ++fruitless_ % kLooksPerCall == 0) {
    int there = 0;
    check_mpi(MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, my_.comm, &there, MPI_STATUS_IGNORE), "MPI_Iprobe");
  }
  return left_ == pieces_.size();
}

bool SharedAllreduce::show(size_t index) {
  Piece& piece = pieces_[index];
  if (!board_.line_is_free(piece.number)) return false;
  const int64_t bytes_of_piece = piece.range.count * element_bytes_;
  SharedBoard::Piece said{
      .offset = 0, .bytes = bytes(), .type = static_cast<int32_t>(my_.buffer.scalar_type()), .op = my_.op_name};
  SharedMemory& memory = board_.memory();
  const auto offset = memory.offset_of(own(piece, 0), static_cast<size_t>(bytes_of_piece));
  if (offset && bytes_of_piece > kFewBytes) {
    said.offset = *offset;
    board_.say(piece.number, said, static_cast<uint64_t>(blocks(piece.range.count)));
    return true;
  }
  piece.copy = board_.place(piece.number);
  if (piece.copy == nullptr) return false;
  said.offset = static_cast<uint64_t>(piece.copy - memory.mine());
  said.copied = 1;
  for (int64_t i = 0; i < blocks(piece.range.count); ++i) {
    const Range range = block({0, piece.range.count}, i);
    std::memcpy(piece.copy + range.first * element_bytes_, own(piece, range.first),
                static_cast<size_t>(range.count * element_bytes_));
    budget_ -= range.count * element_bytes_;
    if (i == 0) {
      board_.say(piece.number, said, 1);
    } else {
      board_.step(piece.number, static_cast<uint64_t>(i) + 1);
    }
  }
  return true;
}

// Every rank comes to the same: it depends on what all have said.
void SharedAllreduce::look_at_others(Piece& piece) {
  bool copies = true;
  for (int rank = 0; rank < size_; ++rank) {
    const SharedBoard::Piece& mine = board_.piece_of(rank_, piece.number);
    const SharedBoard::Piece& said = board_.piece_of(rank, piece.number);
    if (said.bytes != mine.bytes || said.type != mine.type || said.op != mine.op) tell_difference(piece);
    copies = copies && said.copied != 0;
    piece.values.push_back(board_.values(rank, said));
  }
  piece.everywhere = copies && (size_ == 2 || piece.range.count * element_bytes_ <= kFewBytes);
  piece.blocks_taken.assign(static_cast<size_t>(size_), 0);
}

void SharedAllreduce::tell_difference(const Piece& piece) const {
  std::vector<CallOfRank> calls;
  for (int rank = 0; rank < size_; ++rank) {
    const SharedBoard::Piece& said = board_.piece_of(rank, piece.number);
    calls.push_back({.place = fmt::format("rank {}", rank),
                     .call = my_.call_of(said.bytes, said.type, said.op),
                     .number = collective()});
  }
  throw Disagreement(calls);
}

bool SharedAllreduce::add_up(size_t index) {
  Piece& piece = pieces_[index];
  if (piece.values.empty()) {
    if (!all_are_at(piece.number, 1)) return false;
    look_at_others(piece);
  }
  const auto shown = static_cast<uint64_t>(blocks(piece.range.count));
  const Range mine = piece.everywhere ? Range{0, piece.range.count} : part(piece, rank_);
  for (; blocks_added_ < blocks(mine.count); ++blocks_added_) {
    const auto next = static_cast<uint64_t>(blocks_added_) + 1;
    if (budget_ <= 0 || !all_are_at(piece.number, piece.everywhere ? next : shown)) return false;
    const Range range = block(mine, blocks_added_);
    worked(range);
    if (piece.everywhere) {
      add_all(piece, range);
      continue;
    }
    add_others(piece, range);
    if (piece.copy != nullptr) {
      std::memcpy(piece.copy + range.first * element_bytes_, own(piece, range.first),
                  static_cast<size_t>(range.count * element_bytes_));
    }
    board_.step(piece.number, shown + next);
  }
  blocks_added_ = 0;
  return true;
}

bool SharedAllreduce::take(size_t index) {
  Piece& piece = pieces_[index];
  bool all = true;
  for (int rank = 0; rank < size_ && !piece.everywhere; ++rank) {
    if (rank == rank_) continue;
    const Range theirs = part(piece, rank);
    const auto shown = static_cast<uint64_t>(blocks(piece.range.count));
    int64_t& taken = piece.blocks_taken[static_cast<size_t>(rank)];
    for (; taken < blocks(theirs.count); ++taken) {
      if (budget_ <= 0 || board_.step_of(rank, piece.number) < shown + static_cast<uint64_t>(taken) + 1) break;
      const Range range = block(theirs, taken);
      std::memcpy(own(piece, range.first), values_of(piece, rank, range),
                  static_cast<size_t>(range.count * element_bytes_));
      worked(range);
    }
    all = all && taken == blocks(theirs.count);
  }
  if (all) board_.step(piece.number, SharedBoard::kDone);
  return all;
}

// Others may still read what the caller is about to get back.
bool SharedAllreduce::leave(size_t index) {
  const Piece& piece = pieces_[index];
  return piece.copy != nullptr || board_.all_done(piece.number);
}

bool SharedAllreduce::all_are_at(uint64_t number, uint64_t step) const {
  for (int rank = 0; rank < size_; ++rank) {
    if (board_.step_of(rank, number) < step) return false;
  }
  return true;
}

Range SharedAllreduce::part(const Piece& piece, int rank) const {
  const auto begin = [&](int64_t of) {
    const int64_t first = piece.range.count * of / size_;
    return of < size_ && piece.range.count > size_ * kAlignedElements ? first - first % kAlignedElements : first;
  };
  return {begin(rank), begin(rank + 1) - begin(rank)};
}

Range SharedAllreduce::block(const Range& range, int64_t index) const {
  return {range.first + index * block_, std::min(block_, range.count - index * block_)};
}

const char* SharedAllreduce::values_of(const Piece& piece, int rank, const Range& range) const {
  return piece.values[static_cast<size_t>(rank)] + range.first * element_bytes_;
}

// The same calls with the same values on every rank, so that nothing can tell the ranks apart: not which of two NaNs
// a sum has, nor which of two zeros a maximum.
void SharedAllreduce::add_all(const Piece& piece, const Range& range) {
  char* const to = own(piece, range.first);
  if (size_ == 2 && my_.buffer.scalar_type() == at::kFloat && my_.op == MPI_SUM) {
    // The own values where they are: their copy would be a third buffer in the cache.
    add_floats(rank_ == 0 ? to : values_of(piece, 0, range), rank_ == 1 ? to : values_of(piece, 1, range), to,
               range.count);
    return;
  }
  const char* sum = nullptr;
  if (std::has_single_bit(static_cast<unsigned>(size_))) {
    sum = sum_of(piece, 0, size_, range, 0);
  } else {
    char* const passing = copy_to_scratch(values_of(piece, 0, range), range.count, 0);
    for (int rank = 1; rank < size_; ++rank) add(values_of(piece, rank, range), passing, range.count);
    sum = passing;
  }
  std::memcpy(to, sum, static_cast<size_t>(range.count * element_bytes_));
}

// One rank alone makes this sum. Adding is commutative to the bit, so its values may stand on either side.
void SharedAllreduce::add_others(const Piece& piece, const Range& range) {
  char* const to = own(piece, range.first);
  if (std::has_single_bit(static_cast<unsigned>(size_))) {
    for (int distance = 1; distance < size_; distance *= 2) {
      add(sum_of(piece, (rank_ / distance ^ 1) * distance, distance, range, 0), to, range.count);
    }
    return;
  }
  if (rank_ == 1) {
    add(values_of(piece, 0, range), to, range.count);
  } else if (rank_ > 1) {
    char* const before = copy_to_scratch(values_of(piece, 0, range), range.count, 0);
    for (int rank = 1; rank < rank_; ++rank) add(values_of(piece, rank, range), before, range.count);
    add(before, to, range.count);
  }
  for (int rank = rank_ + 1; rank < size_; ++rank) add(values_of(piece, rank, range), to, range.count);
}

const char* SharedAllreduce::sum_of(const Piece& piece, int first_rank, int ranks, const Range& range, size_t level) {
  if (ranks == 1) return values_of(piece, first_rank, range);
  const int half = ranks / 2;
  char* const sum = copy_to_scratch(sum_of(piece, first_rank, half, range, level + 1), range.count, level);
  add(sum_of(piece, first_rank + half, half, range, level + 1), sum, range.count);
  return sum;
}

char* SharedAllreduce::copy_to_scratch(const char* from, int64_t count, size_t level) {
  const auto bytes = static_cast<size_t>(count * element_bytes_);
  return static_cast<char*>(std::memcpy(board_.scratch(level, bytes), from, bytes));
}

void SharedAllreduce::add(const char* from, char* to, int64_t count) {
  check_mpi(MPI_Reduce_local(from, to, static_cast<int>(count), my_.type, my_.op), "MPI_Reduce_local");
}

void SharedAllreduce::worked(const Range& range) {
  budget_ -= range.count * element_bytes_;
  progressed(/*received=*/1);
}

std::string SharedAllreduce::waits_for() const {
  if (left_ == pieces_.size()) return "its end";
  const Piece& piece = pieces_[left_];
  uint64_t least = SharedBoard::kDone;
  std::vector<int> behind;
  for (int rank = 0; rank < size_; ++rank) {
    const uint64_t step = board_.step_of(rank, piece.number);
    if (rank == rank_ || step > least) continue;
    if (step < least) behind.clear();
    least = step;
    behind.push_back(rank);
  }
  return fmt::format("rank {}", fmt::join(behind, " or "));
}

}  // namespace lockstep
