#include "lockstep/sampler.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/randperm.h>
#include <fmt/format.h>

#include <numeric>

#include "lockstep/error.h"

namespace lockstep {

DistributedSampler::DistributedSampler(const Options& options) : options_(options) {
  if (options.size < 1) {
    throw Error(ExitCode::usage, fmt::format("cannot sample from a data set of {} images", options.size),
                "give a data set with at least one image");
  }
  if (options.world_size < 1 || options.rank < 0 || options.rank >= options.world_size) {
    throw Error(ExitCode::usage,
                fmt::format("rank {} is not one of a world of {} ranks", options.rank, options.world_size),
                "ranks count from 0 to the world size less one");
  }
  // PyTorch's rule for drop_last, ceil((size - world) / world) when world does not divide size, is the floor of size /
  // world.
  const int64_t rounded_up = options.drop_last ? 0 : options.world_size - 1;
  samples_per_rank_ = (options.size + rounded_up) / options.world_size;
}

std::vector<int64_t> DistributedSampler::permutation(int64_t epoch) const {
  const auto total = static_cast<std::size_t>(samples_per_rank_ * options_.world_size);
  const auto size = static_cast<std::size_t>(options_.size);
  std::vector<int64_t> entries;
  entries.reserve(std::max(total, size));
  if (options_.shuffle) {
    auto generator = at::detail::createCPUGenerator(options_.seed + static_cast<uint64_t>(epoch));
    const at::Tensor permuted = at::randperm(options_.size, generator, at::kLong);
    const int64_t* first = permuted.const_data_ptr<int64_t>();
    entries.assign(first, first + size);
  } else {
    entries.resize(size);
    std::iota(entries.begin(), entries.end(), int64_t{0});
  }
  // Padding follows the shuffle: the permutation starts again, more than once when there are more ranks than entries.
  while (entries.size() < total) entries.push_back(entries[entries.size() - size]);
  entries.resize(total);
  return entries;
}

std::vector<int64_t> DistributedSampler::indices(int64_t epoch) const {
  const std::vector<int64_t> entries = permutation(epoch);
  std::vector<int64_t> mine;
  mine.reserve(static_cast<std::size_t>(samples_per_rank_));
  const auto stride = static_cast<std::size_t>(options_.world_size);
  for (auto i = static_cast<std::size_t>(options_.rank); i < entries.size(); i += stride) mine.push_back(entries[i]);
  return mine;
}

}  // namespace lockstep
