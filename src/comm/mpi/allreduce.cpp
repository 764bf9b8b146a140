#include "comm/mpi/allreduce.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <new>

#include "world/world_impl.h"

namespace lockstep {
namespace {

// A round's messages. Between hosts one part is added up while the next is on its way. Within a host the cores carry
// the bytes themselves, and each message costs an answer.
constexpr int64_t kPartBytes = 256 * 1024;
constexpr int64_t kPartBytesWithinHost = 1024 * 1024;
// Up to here whole buffers are exchanged: half the rounds.
constexpr int64_t kShortBytes = 4096;
// Halves of a buffer begin on cache lines, whatever the type, and so do received parts: sums of others are slower.
constexpr std::align_val_t kCacheLine{64};
constexpr int64_t kLineElements = 64;
constexpr size_t kMostPooledBytes = size_t{64} << 20;

int64_t messages(int64_t elements, int64_t part) { return (elements + part - 1) / part; }

std::vector<Round> tree_rounds(int rank, int size, int64_t count) {
  std::vector<Round> rounds;
  Range mine{0, count};
  for (int distance = 1; distance < size; distance *= 2) {
    int64_t half = mine.count / 2;
    if (half > kLineElements) half -= half % kLineElements;
    const Range low{mine.first, half};
    const Range high{mine.first + half, mine.count - half};
    const bool upper = (rank & distance) != 0;
    const int peer = rank ^ distance;
    rounds.push_back(
        {.to = peer, .from = peer, .send = upper ? low : high, .receive = upper ? high : low, .combine = true});
    mine = upper ? high : low;
  }
  // The same way back: what was kept goes out, what was given away comes in.
  const size_t halvings = rounds.size();
  for (size_t i = halvings; i-- > 0;) {
    const Round& there = rounds[i];
    rounds.push_back(
        {.to = there.to, .from = there.from, .send = there.receive, .receive = there.send, .combine = false});
  }
  return rounds;
}

std::vector<Round> ring_rounds(int rank, int size, int64_t count) {
  const auto part = [&](int index) {
    const int64_t i = ((index % size) + size) % size;
    const int64_t first = count * i / size;
    return Range{first, count * (i + 1) / size - first};
  };
  const int to = (rank + 1) % size;
  const int from = (rank + size - 1) % size;
  std::vector<Round> rounds;
  for (int i = 0; i < size - 1; ++i) {
    rounds.push_back({.to = to, .from = from, .send = part(rank - i), .receive = part(rank - i - 1), .combine = true});
  }
  for (int i = 0; i < size - 1; ++i) {
    rounds.push_back({.to = to, .from = from, .send = part(rank + 1 - i), .receive = part(rank - i), .combine = false});
  }
  return rounds;
}

}  // namespace

std::vector<Round> allreduce_rounds(int rank, int size, int64_t count, int64_t short_count) {
  if (!std::has_single_bit(static_cast<unsigned>(size))) return ring_rounds(rank, size, count);
  if (count > short_count) return tree_rounds(rank, size, count);
  std::vector<Round> rounds;
  for (int distance = 1; distance < size; distance *= 2) {
    const int peer = rank ^ distance;
    rounds.push_back({.to = peer, .from = peer, .send = {0, count}, .receive = {0, count}, .combine = true});
  }
  return rounds;
}

ScratchPool::Buffer::Buffer(size_t bytes) : bytes_(new (kCacheLine) char[bytes]), size_(bytes) {}

void ScratchPool::Buffer::Free::operator()(char* bytes) const { operator delete[](bytes, kCacheLine); }

std::unique_ptr<ScratchPool::Buffer> ScratchPool::take(size_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    const auto fits = std::find_if(free_.begin(), free_.end(), [&](const auto& buffer) {
      return buffer->size() >= bytes && buffer->size() <= 2 * bytes + 4096;
    });
    if (fits != free_.end()) {
      auto buffer = std::move(*fits);
      free_.erase(fits);
      bytes_ -= buffer->size();
      return buffer;
    }
  }
  return std::make_unique<Buffer>(bytes);
}

void ScratchPool::give_back(std::unique_ptr<Buffer> buffer) {
  const std::lock_guard lock(mutex_);
  if (bytes_ + buffer->size() > kMostPooledBytes) return;
  bytes_ += buffer->size();
  free_.push_back(std::move(buffer));
}

AllreduceOperation::AllreduceOperation(Options options)
    : MpiOperation("all-reduce", options.buffer.numel() * options.buffer.element_size()),
      my_(std::move(options)),
      data_(static_cast<char*>(my_.buffer.data_ptr())),
      element_bytes_(my_.buffer.element_size()),
      part_elements_((my_.several_hosts ? kPartBytes : kPartBytesWithinHost) / element_bytes_),
      rounds_(allreduce_rounds(my_.rank, my_.size, my_.buffer.numel(), kShortBytes / element_bytes_)) {}

AllreduceOperation::~AllreduceOperation() {
  if (scratch_) my_.pool->give_back(std::move(scratch_));
}

void AllreduceOperation::start() {
  int64_t most = 0;
  for (const Round& round : rounds_) {
    if (round.combine) most = std::max(most, round.receive.count);
  }
  if (most > 0) scratch_ = my_.pool->take(static_cast<size_t>(most * element_bytes_));
  if (round_ < rounds_.size()) begin_round();
}

void AllreduceOperation::begin_round() {
  const Round& round = rounds_[round_];
  receives_ = static_cast<size_t>(messages(round.receive.count, part_elements_));
  const auto sends = static_cast<size_t>(messages(round.send.count, part_elements_));
  left_ = receives_ + sends;
  requests_.assign(left_, MPI_REQUEST_NULL);
  done_.resize(left_);
  const auto post = [&](size_t first_request, const Range& range, auto call) {
    for (int64_t i = 0; i * part_elements_ < range.count; ++i) {
      const int64_t offset = i * part_elements_;
      call(offset, static_cast<int>(std::min(part_elements_, range.count - offset)),
           &requests_[first_request + static_cast<size_t>(i)]);
    }
  };
  char* const target = round.combine && scratch_ ? scratch_->data() : at(round.receive.first);
  post(0, round.receive, [&](int64_t offset, int count, MPI_Request* request) {
    check_mpi(MPI_Irecv(target + offset * element_bytes_, count, my_.type, round.from, my_.tag, my_.comm, request),
              "MPI_Irecv");
  });
  post(receives_, round.send, [&](int64_t offset, int count, MPI_Request* request) {
    check_mpi(MPI_Isend(at(round.send.first + offset), count, my_.type, round.to, my_.tag, my_.comm, request),
              "MPI_Isend");
  });
}

void AllreduceOperation::combine(const Range& range) {
  const int64_t offset = range.first - rounds_[round_].receive.first;
  check_mpi(MPI_Reduce_local(scratch_->data() + offset * element_bytes_, at(range.first), static_cast<int>(range.count),
                             my_.type, my_.op),
            "MPI_Reduce_local");
}

bool AllreduceOperation::poll() {
  while (round_ < rounds_.size()) {
    const Round& round = rounds_[round_];
    // Where what is sent is also what is added to, the sum waits until the message has left.
    const bool overlaps = round.combine && round.send.first == round.receive.first;
    int count = 0;
    if (left_ > 0) {
      check_mpi(
          MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count, done_.data(), MPI_STATUSES_IGNORE),
          "MPI_Testsome");
      if (count == MPI_UNDEFINED || count == 0) return false;
      progressed();
      left_ -= static_cast<size_t>(count);
    }
    for (int i = 0; i < count && round.combine && !overlaps; ++i) {
      const auto request = static_cast<size_t>(done_[static_cast<size_t>(i)]);
      if (request >= receives_) continue;
      const int64_t offset = static_cast<int64_t>(request) * part_elements_;
      combine({round.receive.first + offset, std::min(part_elements_, round.receive.count - offset)});
    }
    if (left_ > 0) return false;
    if (overlaps && round.receive.count > 0) combine(round.receive);
    if (++round_ < rounds_.size()) begin_round();
  }
  // Now and not with this object, which may be kept for a while: the next one's sums want warm memory.
  if (scratch_) my_.pool->give_back(std::move(scratch_));
  return true;
}

std::string AllreduceOperation::waits_for() const {
  if (round_ >= rounds_.size()) return "its end";
  const Round& round = rounds_[round_];
  return round.from == round.to ? fmt::format("rank {}", round.from)
                                : fmt::format("rank {} or {}", round.from, round.to);
}

}  // namespace lockstep
