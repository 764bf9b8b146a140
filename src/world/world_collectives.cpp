// World's own collectives.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <utility>

#include "lockstep/world.h"
#include "world/plain_error.h"
#include "world/world_impl.h"

namespace lockstep {

std::vector<int64_t> World::Impl::run(const Call& call, Collective::Next next, int64_t value) {
  const auto operation = std::make_shared<Collective>(*comm_thread, comm, call, std::move(next), value);
  comm_thread->run(operation);
  return operation->values();
}

void World::barrier() { impl_->run(Call::of("World::barrier")); }

std::vector<std::string> World::all_gather(const std::string& text) {
  // On the heap: an operation that fails is kept, and MPI may still write to its buffers.
  struct Buffers {
    std::vector<int> lengths, offsets;
    std::string mine, all;
    int next_rank = 0;
    size_t first = 0;  // byte of `all` that comes next
    size_t end = 0;    // of the rank whose text is on its way
  };
  const auto at = std::make_shared<Buffers>();
  at->mine = text;
  const auto next = [at, &my = *impl_](const std::vector<int64_t>& lengths, MPI_Request* request) {
    if (at->offsets.empty()) {
      at->all.resize(static_cast<size_t>(std::accumulate(lengths.begin(), lengths.end(), int64_t{0})));
      if (static_cast<int64_t>(at->all.size()) <= my.longest_message) {
        at->lengths.assign(lengths.begin(), lengths.end());
        at->offsets.resize(lengths.size());
        std::exclusive_scan(at->lengths.begin(), at->lengths.end(), at->offsets.begin(), 0);
        check_mpi(MPI_Iallgatherv(at->mine.data(), static_cast<int>(at->mine.size()), MPI_BYTE, at->all.data(),
                                  at->lengths.data(), at->offsets.data(), MPI_BYTE, my.messages, request),
                  "MPI_Iallgatherv");
        return Collective::Posted::last;
      }
      at->offsets.resize(1);
    }
    // Each rank's text to all others, in pieces.
    while (at->first == at->end && at->next_rank < my.size) {
      at->end += static_cast<size_t>(lengths[static_cast<size_t>(at->next_rank)]);
      if (at->next_rank == my.rank) std::memcpy(at->all.data() + at->first, at->mine.data(), at->mine.size());
      ++at->next_rank;
    }
    if (at->first == at->end) return Collective::Posted::nothing;
    const size_t bytes = std::min(static_cast<size_t>(my.longest_message), at->end - at->first);
    check_mpi(MPI_Ibcast(at->all.data() + at->first, static_cast<int>(bytes), MPI_BYTE, at->next_rank - 1, my.messages,
                         request),
              "MPI_Ibcast");
    at->first += bytes;
    return Collective::Posted::more;
  };
  const std::vector<int64_t> lengths =
      impl_->run(Call::of("World::all_gather"), next, static_cast<int64_t>(text.size()));
  std::vector<std::string> texts;
  size_t first = 0;
  for (const int64_t length : lengths) {
    texts.push_back(at->all.substr(first, static_cast<size_t>(length)));
    first += static_cast<size_t>(length);
  }
  return texts;
}

void World::broadcast(void* data, std::size_t bytes, int root) {
  auto part = std::make_shared<std::vector<char>>(std::min(static_cast<std::size_t>(impl_->longest_message), bytes));
  char* const to = static_cast<char*>(data);
  // The pieces that are done, or at the root are to go, are copied here: MPI may write to `part` after a failure.
  const auto next = [part, bytes, to, root, under_way = std::size_t{0}, done = std::size_t{0}, this](
                        const std::vector<int64_t>&, MPI_Request* request) mutable {
    if (root != rank() && under_way > 0) std::memcpy(to + done, part->data(), under_way);
    done += under_way;
    under_way = std::min(part->size(), bytes - done);
    if (under_way == 0) return Collective::Posted::nothing;
    if (root == rank()) std::memcpy(part->data(), to + done, under_way);
    check_mpi(MPI_Ibcast(part->data(), static_cast<int>(under_way), MPI_BYTE, root, impl_->messages, request),
              "MPI_Ibcast");
    return Collective::Posted::more;
  };
  const auto count = static_cast<int64_t>(bytes);
  impl_->run(Call::of("World::broadcast", {.count = count, .bytes = count, .root = root}), next);
}

template <typename T>
void World::Impl::sum(std::span<T> values, MPI_Datatype type, const char* type_name) {
  auto copy = std::make_shared<std::vector<T>>(values.begin(), values.end());
  const auto next = [copy, type, first = std::size_t{0}, this](const std::vector<int64_t>&,
                                                               MPI_Request* request) mutable {
    const std::size_t count =
        std::min(std::max<std::size_t>(1, static_cast<std::size_t>(longest_message) / sizeof(T)), copy->size() - first);
    if (count == 0) return Collective::Posted::nothing;
    check_mpi(
        MPI_Iallreduce(MPI_IN_PLACE, copy->data() + first, static_cast<int>(count), type, MPI_SUM, messages, request),
        "MPI_Iallreduce");
    first += count;
    return first < copy->size() ? Collective::Posted::more : Collective::Posted::last;
  };
  run(Call::of("World::sum", {.type = type_name,
                              .count = static_cast<int64_t>(values.size()),
                              .bytes = static_cast<int64_t>(values.size_bytes())}),
      next);
  std::copy(copy->begin(), copy->end(), values.begin());
}

void World::sum(std::span<double> values) { impl_->sum(values, MPI_DOUBLE, "float64"); }
void World::sum(std::span<int64_t> values) { impl_->sum(values, MPI_INT64_T, "int64"); }

void World::together(const std::function<void()>& work) {
  std::string verdict;  // empty: done; else code, message and hint, each ended by a zero byte
  try {
    work();
  } catch (const std::exception& exception) {
    const Error error = plain_error(exception);
    verdict = fmt::format("{}{}{}{}{}{}", static_cast<int>(error.code()), '\0', error.what(), '\0', error.hint(), '\0');
  }
  const auto verdicts = all_gather(verdict);
  for (int rank = 0; rank < size(); ++rank) {
    const std::string& text = verdicts[static_cast<size_t>(rank)];
    if (text.empty()) continue;
    const size_t message = text.find('\0') + 1;
    const size_t hint = text.find('\0', message) + 1;
    throw AgreedError(
        Error(static_cast<ExitCode>(std::atoi(text.c_str())), text.c_str() + message, text.c_str() + hint), rank);
  }
}

}  // namespace lockstep
