#include "lockstep/audit.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <map>
#include <set>
#include <vector>

#include "ddp/audit_digests.h"
#include "ddp/gathered.h"
#include "lockstep/world.h"
#include "store/digest.h"

namespace lockstep {
namespace {

// A tensor's name and digest; both are empty where a rank has no tensor.
using Entry = std::pair<std::string, std::string>;

struct Replica {
  std::string host;
  std::vector<Entry> tensors;

  Entry at(size_t place) const { return place < tensors.size() ? tensors[place] : Entry(); }
  bool has(const std::string& name) const {
    return std::any_of(tensors.begin(), tensors.end(), [&](const Entry& entry) { return entry.first == name; });
  }
};

NamedDigests digests_of(const NamedTensors& state) {
  NamedDigests entries;
  for (const auto& [name, tensor] : state) entries.emplace_back(name, digest_tensor(tensor));
  return entries;
}

std::string pack_entries(const std::vector<Entry>& entries) {
  std::vector<std::string> texts;
  for (const auto& [name, digest] : entries) texts.insert(texts.end(), {name, digest});
  return pack(texts);
}

Replica unpack_replica(const std::string& text) {
  const std::vector<std::string> texts = unpack(text);
  Replica replica;
  if (!texts.empty()) replica.host = texts[0];
  for (size_t i = 1; i + 1 < texts.size(); i += 2) replica.tensors.emplace_back(texts[i], texts[i + 1]);
  return replica;
}

// The first place where the replicas differ, or, when there is none, the largest number of tensors.
size_t first_difference(const std::vector<Replica>& replicas) {
  size_t places = 0;
  for (const Replica& replica : replicas) places = std::max(places, replica.tensors.size());
  for (size_t place = 0; place < places; ++place) {
    const Entry first = replicas[0].at(place);
    for (const Replica& replica : replicas) {
      if (replica.at(place) != first) return place;
    }
  }
  return places;
}

// Splits the ranks into those with the commonest value, on a tie that of the lowest rank, and the others.
struct Sides {
  std::vector<int> right;
  std::vector<int> odd;
};

Sides take_sides(const std::vector<Entry>& values) {
  std::map<Entry, std::vector<int>> holders;
  for (size_t rank = 0; rank < values.size(); ++rank) holders[values[rank]].push_back(static_cast<int>(rank));
  Sides sides;
  for (const Entry& value : values) {  // by rank, so that the lowest comes first among equals
    if (holders[value].size() > sides.right.size()) sides.right = holders[value];
  }
  const Entry& right = values[static_cast<size_t>(sides.right[0])];
  for (size_t rank = 0; rank < values.size(); ++rank) {
    if (values[rank] != right) sides.odd.push_back(static_cast<int>(rank));
  }
  return sides;
}

// The names of tensors that are not the same on every rank.
std::set<std::string> differing(const std::vector<Replica>& replicas) {
  std::map<std::string, std::map<std::string, size_t>> ranks_by_digest;
  for (const Replica& replica : replicas) {
    for (const auto& [name, digest] : replica.tensors) ++ranks_by_digest[name][digest];
  }
  std::set<std::string> names;
  for (const auto& [name, digests] : ranks_by_digest) {
    const bool same = digests.size() == 1 && digests.begin()->second == replicas.size();
    if (!same) names.insert(name);
  }
  return names;
}

// What a batch norm keeps of the images that it has seen.
bool is_statistic(const std::string& name) {
  return name.ends_with("running_mean") || name.ends_with("running_var") || name.ends_with("num_batches_tracked");
}

// What is wrong with the lowest odd rank's tensor; the ranks follow.
std::string describe(const Entry& right, const Entry& odd, const Replica& odd_replica) {
  if (odd.first == right.first) return odd.first;
  if (right.first.empty()) return fmt::format("one tensor too many, {},", odd.first);
  if (!odd_replica.has(right.first)) return fmt::format("{} is missing", right.first);
  return fmt::format("{} in place of {}", odd.first, right.first);
}

AgreedError difference(const std::vector<Replica>& replicas, const std::vector<std::string>& digests, int64_t step) {
  const size_t place = first_difference(replicas);
  std::vector<std::string> hosts(replicas.size());
  std::vector<Entry> values(replicas.size());
  for (size_t rank = 0; rank < replicas.size(); ++rank) {
    hosts[rank] = replicas[rank].host;
    values[rank] = replicas[rank].at(place);
  }
  const bool only_in_sum = std::all_of(values.begin(), values.end(), [&](const Entry& v) { return v == values[0]; });
  if (only_in_sum) {  // a rank that miscalculates
    for (size_t rank = 0; rank < values.size(); ++rank) values[rank] = {"the digest of the digests", digests[rank]};
  }

  const Sides sides = take_sides(values);
  const auto odd = static_cast<size_t>(sides.odd[0]);
  const Entry& right = values[static_cast<size_t>(sides.right[0])];
  std::set<std::string> names = differing(replicas);
  const bool statistics = !names.empty() && std::all_of(names.begin(), names.end(), is_statistic);
  for (const Entry& value : values) names.erase(value.first);
  const size_t others = names.size();
  const std::string more = others == 0 ? "" : fmt::format(", and {} other tensor{}", others, others == 1 ? "" : "s");
  return AgreedError(
      Error(ExitCode::diverged,
            fmt::format("replicas differ after step {}: {} on {}{}; what {} {} is taken as right", step,
                        describe(right, values[odd], replicas[odd]), name_ranks(sides.odd, hosts), more,
                        name_ranks(sides.right), sides.right.size() == 1 ? "has" : "have"),
            statistics
                ? "only statistics of batch norms differ: each rank updates them from its own images, and they follow "
                  "rank 0 at the next forward; call sync_buffers() on all ranks before an audit"
                : "go back to the last weights saved before they differed; when the same host is named again, suspect "
                  "its memory or device, else code that changes parameters on some ranks only"),
      sides.odd[0]);
}

}  // namespace

std::string state_digest(const NamedTensors& state) { return digest_bytes(pack_entries(digests_of(state))); }

std::string audit_replicas(World& world, const NamedTensors& state, int64_t step) {
  return audit_digests(
      world, [&] { return digests_of(state); }, step);
}

std::string audit_digests(World& world, const std::function<NamedDigests()>& digests_of_state, int64_t step) {
  std::string packed;
  std::string mine;  // stays empty when the digest fails, which the others then see without one more collective
  std::exception_ptr failure;
  try {
    packed = pack_entries(digests_of_state());
    mine = digest_bytes(packed);
  } catch (...) {
    failure = std::current_exception();
  }

  const std::vector<std::string> digests = world.all_gather(mine);
  if (std::find(digests.begin(), digests.end(), "") != digests.end()) {
    world.together([&] {
      if (failure) std::rethrow_exception(failure);
    });
  }
  if (std::all_of(digests.begin(), digests.end(), [&](const std::string& one) { return one == digests[0]; })) {
    return mine;
  }

  std::vector<Replica> replicas;
  for (const std::string& text : world.all_gather(pack(std::vector{world.host()}) + packed)) {
    replicas.push_back(unpack_replica(text));
  }
  throw difference(replicas, digests, step);
}

}  // namespace lockstep
