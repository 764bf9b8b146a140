#include "train/inputs.h"

#include <ATen/Version.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <filesystem>
#include <utility>

#include "data/file_digests.h"
#include "ddp/agreement.h"
#include "ddp/gathered.h"
#include "lockstep/cifar10.h"
#include "lockstep/trainer.h"
#include "lockstep/world.h"
#include "store/digest.h"

namespace lockstep {
namespace {

using Lines = std::vector<std::string>;

// What a rank tells of its files: its host, then identity and digest (empty if not known) of each.
struct Told {
  std::string host;
  std::vector<std::pair<std::string, std::string>> files;
};

std::vector<Told> tell_files(World& world, const std::vector<Cifar10::Source>& files) {
  Lines mine = {world.host()};
  for (const Cifar10::Source& file : files) {
    mine.push_back(file.identity);
    mine.push_back(known_digest(file.identity).value_or(""));
  }
  std::vector<Told> all;
  for (const std::string& text : world.all_gather(pack(mine))) {
    const Lines lines = unpack(text);
    Told& told = all.emplace_back();
    told.host = lines.at(0);
    for (size_t i = 1; i + 1 < lines.size(); i += 2) told.files.emplace_back(lines[i], lines[i + 1]);
  }
  return all;
}

// The ranks of this host that have this very file, and its digest if one of them knows it.
struct Holders {
  std::vector<int> ranks;
  std::string digest;
};

Holders holders_of(const std::string& identity, const std::vector<Told>& all, const std::string& host) {
  Holders found;
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].host != host) continue;
    const auto same = std::find_if(all[rank].files.begin(), all[rank].files.end(),
                                   [&](const auto& file) { return file.first == identity; });
    if (same == all[rank].files.end()) continue;
    found.ranks.push_back(static_cast<int>(rank));
    if (found.digest.empty()) found.digest = same->second;
  }
  return found;
}

bool all_known(const std::vector<Told>& all) {
  return std::all_of(all.begin(), all.end(), [](const Told& told) {
    return std::none_of(told.files.begin(), told.files.end(), [](const auto& file) { return file.second.empty(); });
  });
}

}  // namespace

void agree_on_files(World& world, const std::vector<ReadFile>& files, const std::string& hint) {
  Lines mine;
  for (const ReadFile& file : files) mine.push_back(file.digest);
  const std::vector<std::string> digests = world.all_gather(pack(mine));
  std::vector<int> odd;
  for (size_t rank = 0; rank < digests.size(); ++rank) {
    if (digests[rank] != digests[0]) odd.push_back(static_cast<int>(rank));
  }
  if (odd.empty()) return;

  // All words are gathered, so that every rank throws the same ones.
  Lines paths = {world.host()};
  for (const ReadFile& file : files) paths.push_back(file.path);
  Lines hosts;
  std::vector<Lines> paths_of;
  for (const std::string& text : world.all_gather(pack(paths))) {
    Lines& of_rank = paths_of.emplace_back(unpack(text));
    hosts.push_back(of_rank.at(0));
    of_rank.erase(of_rank.begin());
  }
  const auto other = static_cast<size_t>(odd[0]);
  const Lines here = unpack(digests[0]);
  const Lines there = unpack(digests[other]);
  const size_t place =
      static_cast<size_t>(std::mismatch(here.begin(), here.end(), there.begin(), there.end()).first - here.begin());
  const auto file = [&](size_t rank, const Lines& of_rank) {
    return place < of_rank.size() ? fmt::format("{} ({})", paths_of[rank].at(place), of_rank[place]) : "none";
  };
  const std::string name =
      place < here.size() ? std::filesystem::path(paths_of[0].at(place)).filename().string() : "number of files";
  throw AgreedError(
      Error(ExitCode::launch,
            fmt::format("{} read{} another {} than rank 0: rank {} has {}, rank 0 {}", name_ranks(odd, hosts),
                        odd.size() == 1 ? "s" : "", name, other, file(other, there), file(0, here)),
            hint),
      odd[0]);
}

void agree_on_data(World& world, const std::vector<const Cifar10*>& sets) {
  std::vector<Cifar10::Source> files;
  for (const Cifar10* set : sets) {
    for (Cifar10::Source& file : set->sources()) files.push_back(std::move(file));
  }
  // Nothing else computes yet: this rank's part of the host's cores, whatever --threads says of LibTorch's.
  const int threads = std::max(world.threads(), world.cores() / world.local_size());
  std::vector<Told> all = tell_files(world, files);
  if (!all_known(all)) {
    std::vector<Cifar10::Source> share;
    for (size_t i = 0; i < files.size(); ++i) {
      const Holders holders = holders_of(files[i].identity, all, world.host());
      if (holders.digest.empty() && holders.ranks.at(i % holders.ranks.size()) == world.rank())
        share.push_back(files[i]);
    }
    file_digests(share, threads);
    all = tell_files(world, files);
    for (const Cifar10::Source& file : files) {
      const Holders holders = holders_of(file.identity, all, world.host());
      if (!holders.digest.empty()) know_digest(file.identity, holders.digest);
    }
  }
  const Lines digests = file_digests(files, threads);
  std::vector<ReadFile> read;
  for (size_t i = 0; i < files.size(); ++i) read.push_back({.path = files[i].path, .digest = digests[i]});
  agree_on_files(
      world, read,
      "give all ranks the same --data-dir, or copies of the same files (`xxhsum -H2 FILE` prints this digest)");
}

void agree_on_weights(World& world, const std::string& path, const NamedTensors& tensors) {
  std::string all;
  for (const auto& [name, tensor] : tensors) all += fmt::format("{} {}\n", name, digest_tensor(tensor));
  agree_on_files(world, {{.path = path, .digest = digest_bytes(all)}},
                 "give all ranks the same file, or copies of it on each host");
}

void agree_on_evaluation(World& world, const Settings& settings) {
  static constexpr std::array<const char*, 7> kUsed = {
      "data.normalize", "model.name", "train.precision", "train.memory_format", "train.tf32", "eval.batch", "eval.tta"};
  Lines lines;
  for (const auto& [name, value] : setting_values(settings)) {
    if (std::find(kUsed.begin(), kUsed.end(), name) != kUsed.end())
      lines.push_back(fmt::format("{} = {}", name, value));
  }
  agree(world, "settings", lines);
}

void agree_on_request(World& world, const TrainRequest& request) {
  const Settings& settings = request.settings;
  Lines lines;
  for (const auto& [name, value] : setting_values(settings)) {
    if (name != "data.dir") lines.push_back(fmt::format("{} = {}", name, value));  // folders may differ between hosts
  }
  // Its matrix products have other bits with other threads or another processor, and each rank makes them for itself.
  if (settings.optim_name == "muon") {
    lines.push_back(fmt::format("threads with optim.name = muon: {}", world.threads()));
    lines.push_back(fmt::format("processor with optim.name = muon: {}", at::get_cpu_capability()));
  }
  lines.push_back(request.trace.empty()
                      ? "no --trace"
                      : fmt::format("--trace of steps {}:{}", request.trace_first, request.trace_last));
  if (request.as_on_a_gpu) lines.emplace_back("as on a GPU");
  agree(world, "settings", lines);
}

}  // namespace lockstep
