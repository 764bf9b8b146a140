// A library for LD_PRELOAD: chosen calls of write(2), writev(2), fsync(2) or rename(2) fail with EIO, as on a disk that
// breaks.
//
//     FAILING_CALLS='fsync 3 */checkpoints'      the third fsync of a path that fits (fnmatch; * takes / too) fails
//     FAILING_CALLS='write 3- *.tmp-*'           the third such write and all after it fail; writev counts as write
//
// A rename is known by its new name. Each failure is told on standard error: "failing_calls: write 3 PATH".
//
// libfiu is not used: it fails calls of the whole process, the log's and MPI's too, and cannot choose a file; with it
// ranks under mpirun (Open MPI 4.1) did not start.
#include <dlfcn.h>
#include <fnmatch.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

struct Plan {
  char call[16] = {};
  long first = 0;
  char onwards = 0;
  char pattern[512] = {};
  bool set = false;

  Plan() {
    const char* text = std::getenv("FAILING_CALLS");
    if (text == nullptr) return;
    set = std::sscanf(text, "%15s %ld- %511s", call, &first, pattern) == 3;
    if (set) {
      onwards = '-';
      return;
    }
    set = std::sscanf(text, "%15s %ld %511s", call, &first, pattern) == 3;
    if (!set) std::abort();
  }
};

// Counts a call that fits and says whether it shall fail.
bool fails(const char* call, const char* path) {
  static const Plan plan;
  static std::atomic<long> calls = 0;
  if (!plan.set || std::strcmp(call, plan.call) != 0 || ::fnmatch(plan.pattern, path, 0) != 0) return false;
  const long number = ++calls;
  if (number < plan.first || (number > plan.first && plan.onwards == 0)) return false;
  ::dprintf(STDERR_FILENO, "failing_calls: %s %ld %s\n", call, number, path);
  errno = EIO;
  return true;
}

bool fails(const char* call, int descriptor) {
  char link[64];
  std::snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  char path[4096];
  const ssize_t length = ::readlink(link, path, sizeof path - 1);
  if (length <= 0) return false;
  path[length] = '\0';
  return fails(call, path);
}

template <typename Function>
Function* real(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

ssize_t write(int descriptor, const void* bytes, size_t count) {
  static auto* const next = real<ssize_t(int, const void*, size_t)>("write");
  return descriptor > STDERR_FILENO && fails("write", descriptor) ? -1 : next(descriptor, bytes, count);
}

ssize_t writev(int descriptor, const struct iovec* pieces, int count) {
  static auto* const next = real<ssize_t(int, const struct iovec*, int)>("writev");
  return descriptor > STDERR_FILENO && fails("write", descriptor) ? -1 : next(descriptor, pieces, count);
}

int fsync(int descriptor) {
  static auto* const next = real<int(int)>("fsync");
  return fails("fsync", descriptor) ? -1 : next(descriptor);
}

int rename(const char* from, const char* to) noexcept {
  static auto* const next = real<int(const char*, const char*)>("rename");
  return fails("rename", to) ? -1 : next(from, to);
}
}
