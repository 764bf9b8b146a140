#include "data/file_digests.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <ctime>
#include <map>
#include <mutex>
#include <string_view>
#include <thread>

#include "store/digest.h"

namespace lockstep {
namespace {

struct Known {
  std::mutex mutex;
  std::map<std::string, std::string> digests;
};

Known& known() {
  static Known all;
  return all;
}

int64_t nanoseconds(const timespec& time) { return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; }

}  // namespace

std::string file_identity(const struct stat& status) {
  const std::string identity = fmt::format("{}:{}:{}:{}:{}", status.st_dev, status.st_ino, status.st_size,
                                           nanoseconds(status.st_mtim), nanoseconds(status.st_ctim));
  timespec now = {};
  ::clock_gettime(CLOCK_REALTIME, &now);
  if (nanoseconds(now) - nanoseconds(status.st_ctim) > 2'000'000'000) return identity;
  static std::atomic<int> calls{0};
  return fmt::format("{}:{}.{}", identity, ::getpid(), calls++);
}

std::optional<std::string> known_digest(const std::string& identity) {
  const std::lock_guard lock(known().mutex);
  const auto found = known().digests.find(identity);
  return found == known().digests.end() ? std::nullopt : std::optional(found->second);
}

void know_digest(const std::string& identity, const std::string& digest) {
  const std::lock_guard lock(known().mutex);
  known().digests[identity] = digest;
}

std::vector<std::string> file_digests(const std::vector<Cifar10::Source>& files, int threads) {
  std::atomic<std::size_t> next{0};
  std::vector<std::string> digests(files.size());
  const auto work = [&] {
    for (std::size_t i = next++; i < files.size(); i = next++) {
      const Cifar10::Source& file = files[i];
      if (const auto digest = known_digest(file.identity)) {
        digests[i] = *digest;
        continue;
      }
      digests[i] = digest_bytes(std::string_view(reinterpret_cast<const char*>(file.bytes.data()), file.bytes.size()));
      know_digest(file.identity, digests[i]);
    }
  };
  std::vector<std::jthread> others;  // joined also if a later one cannot start
  const auto wanted = std::min<std::size_t>(static_cast<std::size_t>(std::max(1, threads)), files.size());
  for (std::size_t i = 1; i < wanted; ++i) others.emplace_back(work);
  work();
  others.clear();
  return digests;
}

}  // namespace lockstep
