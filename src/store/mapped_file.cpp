#include "store/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

namespace lockstep {
namespace {

std::mutex files_mutex;
std::map<uintptr_t, const MappedFile*> files;  // by the address of their first byte

// Why the byte at this address is lost, if it is one of a mapped file.
std::optional<Error> why_lost(uintptr_t address) {
  const std::lock_guard lock(files_mutex);
  auto next = files.upper_bound(address);
  if (next == files.begin()) return std::nullopt;
  const auto& [first, file] = *--next;
  // The last page is mapped to its end.
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  if (address >= first + (file->size() + page - 1) / page * page) return std::nullopt;
  return file->why_lost(address - first);
}

// The handler asks by an address; the thread of LostPages answers by a byte when the address is nobody's.
std::array<int, 2> questions = {-1, -1}, answers = {-1, -1};
struct sigaction before = {};

extern "C" void ask_and_wait(int signal, siginfo_t* info, void*) {
  const int errno_before = errno;
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  char answer = 0;
  if (::write(questions[1], &address, sizeof address) == sizeof address) {
    while (::read(answers[0], &answer, 1) < 0 && errno == EINTR) continue;
  }
  // The handler from before is in place again. A fault is repeated on return; a signal that was sent is not.
  if (info->si_code <= 0) ::raise(signal);
  errno = errno_before;
}

}  // namespace

MappedFile::MappedFile(std::string path, Descriptor file, std::size_t size)
    : path_(std::move(path)), file_(std::move(file)), size_(size) {
  void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file_.number(), 0);
  if (mapped == MAP_FAILED) throw file_error("map", path_, errno);
  bytes_ = static_cast<const uint8_t*>(mapped);
  const std::lock_guard lock(files_mutex);
  files[reinterpret_cast<uintptr_t>(bytes_)] = this;
}

MappedFile::~MappedFile() {
  const std::lock_guard lock(files_mutex);
  files.erase(reinterpret_cast<uintptr_t>(bytes_));
  ::munmap(const_cast<uint8_t*>(bytes_), size_);
}

Error MappedFile::why_lost(std::size_t offset) const {
  struct stat now = {};
  if (::fstat(file_.number(), &now) == 0 && static_cast<std::size_t>(now.st_size) <= offset) {
    return Error(
        ExitCode::damaged,
        fmt::format("{} was cut short while it was in use: {} bytes, {} when it was opened", path_, now.st_size, size_),
        "get the whole file again, then start again with --resume auto; while runs use a file, replace it by a "
        "rename only");
  }
  return Error(ExitCode::io, fmt::format("cannot read {} at byte {} any more", path_, offset),
               "check the disk and its messages in the system log, then start again with --resume auto");
}

LostPages::LostPages(std::function<void(const Error&)> lost) : lost_(std::move(lost)) {
  for (auto* pipe : {&questions, &answers}) {
    if (::pipe2(pipe->data(), O_CLOEXEC) != 0) throw file_error("make", "a pipe", errno);
  }
  struct sigaction action = {};
  action.sa_sigaction = &ask_and_wait;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, &before);
  thread_ = std::thread([this] { loop(); });
}

LostPages::~LostPages() {
  sigaction(SIGBUS, &before, nullptr);
  ::close(questions[1]);
  thread_.join();
  for (const int end : {questions[0], answers[0], answers[1]}) ::close(end);
}

void LostPages::loop() {
  pthread_setname_np(pthread_self(), "lockstep-pages");
  for (;;) {
    uintptr_t address = 0;
    const ssize_t got = ::read(questions[0], &address, sizeof address);
    if (got < 0 && errno == EINTR) continue;
    if (got != sizeof address) return;
    if (const std::optional<Error> error = why_lost(address)) {
      lost_(*error);
      std::terminate();
    }
    sigaction(SIGBUS, &before, nullptr);
    [[maybe_unused]] const auto written = ::write(answers[1], "", 1);
  }
}

}  // namespace lockstep
