// What DistributedSampler deals out, for sampler_test.py to compare with PyTorch's. For each line of the input,
//     SIZE WORLD_SIZE RANK SHUFFLE SEED EPOCH DROP_LAST
// the output holds, as int64: size(), the number of indices, the indices.
#include <cinttypes>
#include <cstdio>
#include <vector>

#include "lockstep/sampler.h"

namespace {

void put(const std::vector<int64_t>& values) { std::fwrite(values.data(), sizeof(int64_t), values.size(), stdout); }

}  // namespace

int main() {
  lockstep::DistributedSampler::Options options;
  int shuffle = 0;
  int drop_last = 0;
  int64_t epoch = 0;
  while (std::scanf("%" SCNd64 " %d %d %d %" SCNu64 " %" SCNd64 " %d", &options.size, &options.world_size,
                    &options.rank, &shuffle, &options.seed, &epoch, &drop_last) == 7) {
    options.shuffle = shuffle != 0;
    options.drop_last = drop_last != 0;
    const lockstep::DistributedSampler sampler(options);
    const std::vector<int64_t> indices = sampler.indices(epoch);
    put({sampler.size(), static_cast<int64_t>(indices.size())});
    put(indices);
  }
  return std::fflush(stdout) == 0 ? 0 : 1;
}
