#include "comm/mpi/allreduce.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

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
// The same for two ranks on two hosts, where it takes no more messages: one round waits for nothing but the link.
constexpr int64_t kShortBytesOfTwoHosts = int64_t{16} << 20;
// Halves of a buffer begin on cache lines, whatever the type, and so do received parts: sums of others are slower.
constexpr std::align_val_t kCacheLine{64};
constexpr int64_t kLineElements = 64;
// What goes out is up to an eighth more, in whole lines of elements of up to 16 bytes (elements_of_a_part), and MPI's
// header with it.
static_assert(kPartBytes + kPartBytes / 8 + kLineElements * 16 + 128 <= kWholeMessageBytes);
constexpr size_t kMostPooledBytes = size_t{64} << 20;

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
    rounds.push_back({.send = {{peer, upper ? low : high}}, .receive = {{peer, upper ? high : low}}, .combine = true});
    mine = upper ? high : low;
  }
  // The same way back: what was kept goes out, what was given away comes in.
  const size_t halvings = rounds.size();
  for (size_t i = halvings; i-- > 0;) {
    rounds.push_back({.send = rounds[i].receive, .receive = rounds[i].send, .combine = false});
  }
  return rounds;
}

// Each rank's part goes to that rank, and its sum from there to all. Messages begin with the next rank, so that not all
// talk to one.
std::vector<Round> direct_rounds(int rank, int size, int64_t count) {
  const auto part = [&](int index) {
    const int64_t first = count * index / size;
    return Range{first, count * (index + 1) / size - first};
  };
  std::vector<Round> rounds(2);
  rounds[0].combine = true;
  for (int i = 1; i < size; ++i) {
    const int to = (rank + i) % size;
    const int from = (rank + size - i) % size;
    rounds[0].send.push_back({to, part(to)});
    rounds[0].receive.push_back({from, part(rank)});
    rounds[1].send.push_back({to, part(rank)});
    rounds[1].receive.push_back({from, part(from)});
  }
  std::sort(rounds[0].receive.begin(), rounds[0].receive.end(),
            [](const Message& a, const Message& b) { return a.peer < b.peer; });
  return rounds;
}

}  // namespace

std::vector<Round> allreduce_rounds(int rank, int size, int64_t count, int64_t short_count) {
  if (!std::has_single_bit(static_cast<unsigned>(size))) return direct_rounds(rank, size, count);
  if (count > short_count) return tree_rounds(rank, size, count);
  std::vector<Round> rounds;
  for (int distance = 1; distance < size; distance *= 2) {
    const int peer = rank ^ distance;
    rounds.push_back({.send = {{peer, {0, count}}}, .receive = {{peer, {0, count}}}, .combine = true});
  }
  return rounds;
}

int64_t elements_of_a_part(int64_t count, int64_t usual) {
  const int64_t most = usual + usual / 8;
  const int64_t parts = std::max<int64_t>(1, (count + most - 1) / most);
  const int64_t each = (count + parts - 1) / parts;
  return (each + kLineElements - 1) / kLineElements * kLineElements;
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

int64_t AllreduceOperation::most_exchanged(const Options& options) {
  if (!options.same_either_way) return 0;
  return options.several_hosts && options.size == 2 ? kShortBytesOfTwoHosts : kShortBytes;
}

int allreduce_tag(uint32_t number, const Call& call, uint32_t most) {
  constexpr uint32_t kMarks = 1U << 16;
  const uint32_t numbers = most / kMarks;
  if (numbers < 1024) return static_cast<int>(number % most);
  uint64_t mark = 1469598103934665603U;  // FNV-1a
  const auto take = [&](uint64_t value) { mark = (mark ^ value) * 1099511628211U; };
  take(static_cast<uint64_t>(call.count));
  for (const char* text : {call.type, call.op}) {
    for (; *text != '\0'; ++text) take(static_cast<unsigned char>(*text));
    take(0);
  }
  return static_cast<int>((number % numbers) * kMarks + (mark >> 40) % kMarks);
}

AllreduceOperation::AllreduceOperation(Options options)
    : MpiOperation("all-reduce", options.buffer.numel() * options.buffer.element_size(), options.call),
      my_(std::move(options)),
      data_(static_cast<char*>(my_.buffer.data_ptr())),
      element_bytes_(my_.buffer.element_size()),
      usual_part_((my_.several_hosts ? kPartBytes : kPartBytesWithinHost) / element_bytes_),
      rounds_(allreduce_rounds(my_.rank, my_.size, my_.buffer.numel(), most_exchanged(my_) / element_bytes_)) {}

AllreduceOperation::~AllreduceOperation() {
  if (scratch_) my_.pool->give_back(std::move(scratch_));
}

void AllreduceOperation::start() {
  int64_t most = 0;
  for (const Round& round : rounds_) {
    int64_t received = 0;
    for (const Message& message : round.receive) received += message.range.count;
    if (round.combine) most = std::max(most, received);
  }
  if (most > 0) scratch_ = my_.pool->take(static_cast<size_t>(most * element_bytes_));
  if (round_ < rounds_.size()) begin_round();
}

void AllreduceOperation::begin_round() {
  const Round& round = rounds_[round_];
  requests_.clear();
  const auto post = [&](const Message& message, char* memory, bool receive) {
    const int64_t part = elements_of_a_part(message.range.count, usual_part_);
    for (int64_t done = 0; done < message.range.count; done += part) {
      char* const at = memory + done * element_bytes_;
      const auto count = static_cast<int>(std::min(part, message.range.count - done));
      MPI_Request* const request = &requests_.emplace_back(MPI_REQUEST_NULL);
      if (receive) {
        check_mpi(MPI_Irecv(at, count, my_.type, message.peer, my_.tag, my_.comm, request), "MPI_Irecv");
      } else {
        check_mpi(MPI_Isend(at, count, my_.type, message.peer, my_.tag, my_.comm, request), "MPI_Isend");
      }
    }
  };
  int64_t received = 0;  // elements in the scratch
  for (const Message& message : round.receive) {
    post(message, round.combine && scratch_ ? scratch_->data() + received * element_bytes_ : at(message.range.first),
         true);
    received += message.range.count;
  }
  receives_ = requests_.size();
  for (const Message& message : round.send) post(message, at(message.range.first), false);
  left_ = requests_.size();
  done_.resize(left_);
  // What comes from one rank alone is added part by part as it comes; where it is also being sent, once that is done.
  const bool by_parts = round.combine && round.receive.size() == 1;
  adds_what_it_sends_ = by_parts && round.send[0].range == round.receive[0].range;
  awaited_.assign(by_parts ? receives_ : 0, adds_what_it_sends_ ? 2 : 1);
}

void AllreduceOperation::add(const char* values, char* to, int64_t count) {
  constexpr int64_t kMost = int64_t{1} << 30;
  for (int64_t done = 0; done < count; done += kMost) {
    const int64_t offset = done * element_bytes_;
    check_mpi(MPI_Reduce_local(values + offset, to + offset, static_cast<int>(std::min(kMost, count - done)), my_.type,
                               my_.op),
              "MPI_Reduce_local");
  }
}

// Adding is commutative to the bit, so what matters is which are added first.
void AllreduceOperation::combine(const Round& round) {
  const Range range = round.receive[0].range;
  const auto values = [&](size_t i) {
    return scratch_->data() + static_cast<int64_t>(i) * range.count * element_bytes_;
  };
  size_t next = 1;
  while (next < round.receive.size() && round.receive[next].peer < my_.rank)
    add(values(next++), values(0), range.count);
  add(values(0), at(range.first), range.count);
  for (; next < round.receive.size(); ++next) add(values(next), at(range.first), range.count);
}

void AllreduceOperation::request_ended(size_t request) {
  if (awaited_.empty() || (request >= receives_ && !adds_what_it_sends_)) return;
  const size_t part = request % receives_;
  if (--awaited_[part] > 0) return;
  const Range& range = rounds_[round_].receive[0].range;
  const int64_t elements = elements_of_a_part(range.count, usual_part_);
  const int64_t offset = static_cast<int64_t>(part) * elements;
  add(scratch_->data() + offset * element_bytes_, at(range.first + offset), std::min(elements, range.count - offset));
}

bool AllreduceOperation::poll() {
  while (round_ < rounds_.size()) {
    const Round& round = rounds_[round_];
    int count = 0;
    if (left_ > 0) {
      check_mpi(
          MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count, done_.data(), MPI_STATUSES_IGNORE),
          "MPI_Testsome");
      if (count == MPI_UNDEFINED || count == 0) return false;
      progressed(static_cast<size_t>(std::count_if(done_.begin(), done_.begin() + count, [&](int request) {
        return static_cast<size_t>(request) < receives_;
      })));
      left_ -= static_cast<size_t>(count);
    }
    for (int i = 0; i < count; ++i) request_ended(static_cast<size_t>(done_[static_cast<size_t>(i)]));
    if (left_ > 0) return false;
    if (round.combine && awaited_.empty() && round.receive[0].range.count > 0) combine(round);
    if (++round_ < rounds_.size()) begin_round();
  }
  // Now and not with this object, which may be kept for a while: the next one's sums want warm memory.
  if (scratch_) my_.pool->give_back(std::move(scratch_));
  return true;
}

std::string AllreduceOperation::waits_for() const {
  if (round_ >= rounds_.size()) return "its end";
  std::vector<int> peers;
  for (const auto* messages : {&rounds_[round_].receive, &rounds_[round_].send}) {
    for (const Message& message : *messages) {
      if (std::find(peers.begin(), peers.end(), message.peer) == peers.end()) peers.push_back(message.peer);
    }
  }
  std::sort(peers.begin(), peers.end());
  return fmt::format("rank {}", fmt::join(peers, " or "));
}

}  // namespace lockstep
