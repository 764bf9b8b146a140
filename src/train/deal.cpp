#include "train/deal.h"

#include <algorithm>

namespace lockstep {

int64_t Deal::images(int64_t step) const {
  const auto size = static_cast<int64_t>(entries_.size());
  return std::min(plan_.global_batch, size - step * plan_.global_batch);
}

std::span<const Pass> Deal::passes(int64_t step, int64_t shard) {
  const int64_t first = step * plan_.global_batch;
  const int64_t all = images(step);
  images_.clear();
  passes_.clear();
  for (int64_t i = shard; i < all; i += plan_.shards) images_.push_back(entries_[static_cast<size_t>(first + i)]);
  if (images_.empty()) {
    images_.push_back(entries_[static_cast<size_t>(first)]);
    passes_.push_back({.images = images_, .weight = 0});
    return passes_;
  }
  const auto mine = static_cast<int64_t>(images_.size());
  for (int64_t k = 0; k < plan_.accumulate; ++k) {
    const int64_t begin = mine * k / plan_.accumulate;
    const int64_t count = mine * (k + 1) / plan_.accumulate - begin;
    if (count == 0) continue;
    passes_.push_back({.images = std::span(images_).subspan(static_cast<size_t>(begin), static_cast<size_t>(count)),
                       .weight = static_cast<double>(count * averaging_ranks_) / static_cast<double>(all)});
  }
  return passes_;
}

}  // namespace lockstep
