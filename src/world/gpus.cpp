#include "world/gpus.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "lockstep/error.h"
#include "lockstep/world.h"

namespace lockstep {
namespace {

constexpr double kGib = 1024.0 * 1024 * 1024;

std::string describe(const Gpu& gpu) {
  return fmt::format("{}, {:.0f} GiB, {}", gpu.name, static_cast<double>(gpu.memory_bytes) / kGib, gpu.uuid);
}

// A row a rank; -1: it has none.
std::string table(const std::vector<RankGpus>& ranks, const std::vector<int>& choice) {
  std::size_t widest = 4;
  for (const RankGpus& rank : ranks) widest = std::max(widest, rank.host.size());
  std::string text = fmt::format("\n  rank  {:<{}}  local rank  GPUs seen  its GPU", "host", widest);
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    const RankGpus& rank = ranks[i];
    const auto index = choice[i];
    const bool owns = index >= 0 && static_cast<std::size_t>(index) < rank.sees.gpus.size();
    std::string its =
        owns ? fmt::format("{}: {}", index, describe(rank.sees.gpus[static_cast<std::size_t>(index)])) : "none";
    if (!owns && !rank.sees.problem.empty()) its += fmt::format(" ({})", rank.sees.problem);
    if (!rank.sees.visible.empty()) its += fmt::format(" ({})", rank.sees.visible);
    text += fmt::format("\n  {:>4}  {:<{}}  {:>10}  {:>9}  {}", i, rank.host, widest, rank.local_rank,
                        rank.sees.gpus.size(), its);
  }
  return text;
}

[[noreturn]] void refuse(const std::vector<RankGpus>& ranks, const std::vector<int>& choice, std::size_t culprit,
                         const std::string& what, const std::string& hint) {
  throw AgreedError(Error(ExitCode::launch, what + table(ranks, choice), hint), static_cast<int>(culprit));
}

using Key = std::pair<std::string, std::string>;  // host, and what names a GPU there

// Each rank in turn takes the first GPU it sees that no other rank of its host has: the one at its local rank where all
// see the same, its own where a launcher gave each task one.
void take_one_each(const std::vector<RankGpus>& ranks, std::vector<int>& choice) {
  std::map<Key, std::size_t> owner;
  std::map<std::string, std::set<std::string>> gpus_of;
  for (const RankGpus& rank : ranks) {
    for (const Gpu& gpu : rank.sees.gpus) gpus_of[rank.host].insert(gpu.uuid);
  }
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    const RankGpus& rank = ranks[i];
    const auto& gpus = rank.sees.gpus;
    const auto free = std::find_if(gpus.begin(), gpus.end(), [&](const Gpu& gpu) {
      return owner.try_emplace({rank.host, gpu.uuid}, i).second;
    });
    choice[i] = free == gpus.end() ? -1 : static_cast<int>(free - gpus.begin());
  }
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    if (choice[i] >= 0) continue;
    const RankGpus& rank = ranks[i];
    const std::size_t count = gpus_of[rank.host].size();
    const std::string masked = "CUDA_VISIBLE_DEVICES is set: give each rank a GPU of its own by it, or all GPUs to all";
    if (count < static_cast<std::size_t>(rank.local_size)) {
      const std::string gpus_text = fmt::format("{} GPU{}", count, count == 1 ? "" : "s");
      refuse(ranks, choice, i,
             fmt::format("rank {} has no GPU of its own: {} has {} ranks and {}", i, rank.host, rank.local_size,
                         gpus_text),
             rank.sees.visible.empty() ? fmt::format("start at most {} on {}, or use --device cpu",
                                                     count == 1 ? "1 rank" : fmt::format("{} ranks", count), rank.host)
                                       : masked);
    }
    refuse(
        ranks, choice, i,
        fmt::format("ranks {} and {} on {} would use one GPU, {}", owner[{rank.host, rank.sees.gpus[0].uuid}], i,
                    rank.host, rank.sees.gpus[0].uuid),
        rank.sees.visible.empty() ? "see that every task is given a GPU of its own, or all of them all GPUs" : masked);
  }
}

// Slices of one GPU have UUIDs of their own, but share the bus address.
void refuse_slices_of_one(const std::vector<RankGpus>& ranks, const std::vector<int>& choice) {
  std::map<Key, std::size_t> owner;
  for (std::size_t i = 0; i < ranks.size(); ++i) {
    const Gpu& gpu = ranks[i].sees.gpus[static_cast<std::size_t>(choice[i])];
    if (gpu.pci.empty()) continue;
    const auto [other, alone] = owner.try_emplace({ranks[i].host, gpu.pci}, i);
    if (alone) continue;
    refuse(ranks, choice, i,
           fmt::format("ranks {} and {} on {} would use slices of one GPU, {}, which NCCL cannot join", other->second,
                       i, ranks[i].host, gpu.pci),
           "start one rank for each whole GPU, or one rank alone on a slice");
  }
}

}  // namespace

DeviceWish device_wish(const std::string& text) {
  if (text == "auto") return DeviceWish::automatic;
  if (text == "cpu") return DeviceWish::cpu;
  if (text == "cuda") return DeviceWish::cuda;
  throw Error(ExitCode::usage, fmt::format("--device {} is none", text), "allowed: auto, cpu, cuda");
}

std::vector<int> choose_gpus(DeviceWish wish, const std::vector<RankGpus>& ranks) {
  std::vector<int> choice(ranks.size(), -1);
  if (wish == DeviceWish::cpu) return choice;

  std::size_t blind = 0;
  std::size_t first_blind = 0;
  for (std::size_t i = ranks.size(); i-- > 0;) {
    if (!ranks[i].sees.gpus.empty()) continue;
    ++blind;
    first_blind = i;
  }
  if (blind == ranks.size() && wish == DeviceWish::automatic) return choice;

  if (blind > 0) {
    const RankGpus& rank = ranks[first_blind];
    for (std::size_t i = 0; i < ranks.size(); ++i) {  // the others' as they would be
      const auto count = static_cast<int>(ranks[i].sees.gpus.size());
      choice[i] = count == 0 ? -1 : ranks[i].local_rank % count;
    }
    refuse(ranks, choice, first_blind,
           fmt::format("rank {} on {} sees no GPU{}: {}", first_blind, rank.host,
                       blind == ranks.size() ? "" : " while others do", rank.sees.problem),
           blind == ranks.size() ? "use --device cpu, or mend what stands above"
                                 : "start ranks only where each has a GPU, or use --device cpu on all");
  }
  if (std::all_of(ranks.begin(), ranks.end(), [](const RankGpus& rank) { return rank.sees.may_share; })) {
    for (std::size_t i = 0; i < ranks.size(); ++i) {
      choice[i] = ranks[i].local_rank % static_cast<int>(ranks[i].sees.gpus.size());
    }
    return choice;
  }
  take_one_each(ranks, choice);
  refuse_slices_of_one(ranks, choice);
  return choice;
}

std::string to_text(const RankGpus& rank) {
  nlohmann::json gpus = nlohmann::json::array();
  for (const Gpu& gpu : rank.sees.gpus) gpus.push_back({gpu.name, gpu.uuid, gpu.pci, gpu.memory_bytes});
  const nlohmann::json all = {{"host", rank.host},
                              {"local_rank", rank.local_rank},
                              {"local_size", rank.local_size},
                              {"gpus", gpus},
                              {"problem", rank.sees.problem},
                              {"visible", rank.sees.visible},
                              {"may_share", rank.sees.may_share}};
  return all.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

RankGpus rank_gpus_from_text(const std::string& text) {
  const auto all = nlohmann::json::parse(text);
  RankGpus rank{.host = all["host"], .local_rank = all["local_rank"], .local_size = all["local_size"], .sees = {}};
  rank.sees.problem = all["problem"];
  rank.sees.visible = all["visible"];
  rank.sees.may_share = all["may_share"];
  for (const auto& gpu : all["gpus"]) rank.sees.gpus.push_back({gpu[0], gpu[1], gpu[2], gpu[3]});
  return rank;
}

}  // namespace lockstep
