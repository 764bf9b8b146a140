#include "comm/shared/board.h"

#include <algorithm>

namespace lockstep {
namespace {

constexpr uint64_t kLines = 64;
constexpr size_t kLinesAt = 4096;  // before them is the mark of SharedMemory::make
constexpr size_t kPlacesAt = size_t{1} << 20;
constexpr size_t kPlaces = 16;
constexpr int kStepBits = 24;

static_assert(kPlacesAt + kPlaces * SharedBoard::kPlaceBytes <= SharedMemory::kFixedBytes);

}  // namespace

// Number and step in one word, so that a line which has gone over to a later piece tells that, too.
struct alignas(64) SharedBoard::Line {
  std::atomic<uint64_t> at;
  Piece piece;
};

SharedBoard::SharedBoard(std::shared_ptr<SharedMemory> memory)
    : memory_(std::move(memory)), next_(kLines), oldest_(kLines), users_(kPlaces, 0) {
  static_assert(sizeof(Line) == 64 && std::atomic<uint64_t>::is_always_lock_free);
}

const SharedBoard::Line& SharedBoard::line(int rank, uint64_t number) const {
  return reinterpret_cast<const Line*>(memory_->of(rank) + kLinesAt)[number % kLines];
}

SharedBoard::Line& SharedBoard::my_line(uint64_t number) {
  return reinterpret_cast<Line*>(memory_->mine() + kLinesAt)[number % kLines];
}

bool SharedBoard::line_is_free(uint64_t number) const { return number < 2 * kLines || all_done(number - kLines); }

// Were a later piece to get the last place, an earlier one could wait for it here, and for this one elsewhere: so only
// as many pieces have places as there are, the oldest ones.
char* SharedBoard::place(uint64_t number) {
  while (all_done(oldest_)) ++oldest_;
  if (number >= oldest_ + kPlaces) return nullptr;
  const auto free =
      std::find_if(users_.begin(), users_.end(), [this](uint64_t user) { return user == 0 || all_done(user); });
  if (free == users_.end()) return nullptr;
  *free = number;
  return memory_->mine() + kPlacesAt + static_cast<size_t>(free - users_.begin()) * kPlaceBytes;
}

void SharedBoard::say(uint64_t number, const Piece& piece, uint64_t step) {
  my_line(number).piece = piece;
  this->step(number, step);
}

void SharedBoard::step(uint64_t number, uint64_t step) {
  my_line(number).at.store(number << kStepBits | step, std::memory_order_release);
}

uint64_t SharedBoard::step_of(int rank, uint64_t number) const {
  const uint64_t at = line(rank, number).at.load(std::memory_order_acquire);
  if (at >> kStepBits != number) return at >> kStepBits < number ? 0 : kDone;
  return at & kDone;
}

bool SharedBoard::all_done(uint64_t number) const {
  for (int rank = 0; rank < memory_->size(); ++rank) {
    if (step_of(rank, number) != kDone) return false;
  }
  return true;
}

const SharedBoard::Piece& SharedBoard::piece_of(int rank, uint64_t number) const { return line(rank, number).piece; }

char* SharedBoard::scratch(size_t index, size_t bytes) {
  if (scratch_.size() <= index) scratch_.resize(index + 1);
  if (scratch_[index].size() < bytes) scratch_[index].resize(bytes);
  return scratch_[index].data();
}

}  // namespace lockstep
