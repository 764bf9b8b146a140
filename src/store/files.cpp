#include "store/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "store/pieces.h"

namespace lockstep {
namespace {

// Bytes per write(2): Linux takes at most about 2 GiB at once.
constexpr std::size_t kLargestWrite = std::size_t{1} << 30;

std::string reason(int error_number) { return std::generic_category().message(error_number); }

std::string folder_of(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

// What a path leads to that is no regular file.
const char* kind_of(mode_t mode) {
  if (S_ISFIFO(mode)) return "a FIFO (named pipe)";
  if (S_ISSOCK(mode)) return "a socket";
  return S_ISDIR(mode) ? "a folder" : "a device";
}

Error not_regular(std::string_view doing, const std::string& path, mode_t mode) {
  return Error(ExitCode::io, fmt::format("cannot {} {}: it is {}, not a regular file", doing, path, kind_of(mode)),
               S_ISFIFO(mode) ? fmt::format("store what comes out of it in a file: `cat '{}' > FILE`", path)
                              : "give the name of a regular file");
}

// False with errno when not every byte could be written.
bool write_all(int descriptor, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor, bytes.data(), std::min(bytes.size(), kLargestWrite));
    if (written < 0 && errno == EINTR) continue;
    if (written == 0) errno = EIO;
    if (written <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

bool sync(int descriptor) {
  int result;
  do result = ::fsync(descriptor);
  while (result != 0 && errno == EINTR);
  return result == 0;
}

// Makes a rename in the folder durable. Some network file systems cannot fsync a folder and say EINVAL: nothing to be
// done there.
bool sync_folder(const std::string& folder) {
  Descriptor descriptor = open_file(folder, O_RDONLY | O_DIRECTORY);
  return descriptor && (sync(descriptor.number()) || errno == EINVAL) && descriptor.close();
}

// Removes the file unless told that its name is gone.
class Temporary {
 public:
  explicit Temporary(const std::string& name) : name_(name) {}
  ~Temporary() {
    if (!gone_) ::unlink(name_.c_str());
  }
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;
  void is_gone() { gone_ = true; }

 private:
  const std::string& name_;
  bool gone_ = false;
};

// A new empty file beside `path`: its name and its descriptor.
std::pair<std::string, Descriptor> open_beside(const std::string& path) {
  static std::atomic<unsigned> counter{0};
  for (;;) {
    std::string name = fmt::format("{}.tmp-{}-{}", path, ::getpid(), counter++);
    Descriptor file = open_file(name, O_WRONLY | O_CREAT | O_EXCL, 0666);
    if (file || errno != EEXIST) return {std::move(name), std::move(file)};
  }
}

}  // namespace

std::string file_hint(int error_number, const std::string& path) {
  const std::string folder = folder_of(path);
  switch (error_number) {
    case ENOSPC:
      return fmt::format("free some space (see `df -h '{0}'` and `df -i '{0}'`) or choose another folder", folder);
    case EDQUOT:
      return "your quota is used up (see `quota -s`): free some space or choose another folder";
    case EFBIG:
      return "raise the limit on file sizes (see `ulimit -f`)";
    case EACCES:
    case EPERM:
      return fmt::format("check the permissions (see `ls -ld '{}'`) or choose another folder", folder);
    case EROFS:
      return "the file system is mounted read-only; choose another folder";
    case ENOENT:
    case ENOTDIR:
      return fmt::format("check that the folder {} exists", folder);
    case EEXIST:
      return "choose another name, or remove what is there";
    case EISDIR:
      return "this is a folder; give the name of a file";
    case ENAMETOOLONG:
      return "choose a shorter name: most file systems take 255 bytes for each part of a path";
    case ELOOP:
      return fmt::format("symbolic links lead in a circle (see `namei '{}'`); mend or remove them", path);
    case EMFILE:
      return "raise the limit on open files of a process (see `ulimit -n`)";
    case ENFILE:
      return "too many files are open on this host (see /proc/sys/fs/file-nr); end the processes that hold them";
    case ENOMEM:
      return "free memory on this host (see `free -h`), or raise the job's limit (`ulimit -v`; with Slurm --mem)";
    case EAGAIN:
      return "raise the limit on processes and threads (see `ulimit -u`)";
    case EBUSY:
    case ETXTBSY:
      return fmt::format("another process uses it (see `fuser -v '{}'`); end that one or choose another name", path);
    case ENXIO:
    case ENODEV:
      return "give the name of a regular file";
    case ESTALE:
      return "the file was removed or replaced on its network file system; start again with --resume auto";
    case ETIMEDOUT:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ENETDOWN:
    case ENETUNREACH:
    case ENOTCONN:
      return fmt::format("the network file system does not answer (see `df '{}'`); start again when it does", folder);
    default:
      return "check the disk and its messages in the system log";
  }
}

Error file_error(std::string_view doing, const std::string& path, int error_number) {
  return Error(ExitCode::io, fmt::format("cannot {} {}: {}", doing, path, reason(error_number)),
               file_hint(error_number, path));
}

Descriptor::~Descriptor() {
  if (number_ >= 0) ::close(number_);
}

bool Descriptor::close() { return ::close(std::exchange(number_, -1)) == 0 || errno == EINTR; }

Descriptor open_file(const std::string& path, int flags, unsigned mode) {
  int number;
  do number = ::open(path.c_str(), flags | O_CLOEXEC, static_cast<mode_t>(mode));
  while (number < 0 && errno == EINTR);
  return Descriptor(number);
}

void write_durably(const std::string& path, std::string_view bytes, const std::function<void(WriteStage)>& at) {
  write_durably(path, std::vector{bytes}, at);
}

void write_durably(const std::string& path, std::vector<std::string_view> pieces,
                   const std::function<void(WriteStage)>& at) {
  Pieces bytes(std::move(pieces));
  auto [name, file] = open_beside(path);
  if (!file) throw file_error("write", path, errno);
  Temporary temporary(name);
  const auto demand = [&path](bool done) {
    if (!done) throw file_error("write", path, errno);
  };
  const auto tell = [&at](WriteStage stage) {
    if (at) at(stage);
  };
  std::size_t half = bytes.size() / 2;
  if (bytes.size() >= Pieces::kDirectFrom) half -= half % Pieces::kAlignment;
  demand(bytes.write(file.number(), half));
  tell(WriteStage::half_written);
  demand(bytes.write(file.number(), bytes.size() - half) && sync(file.number()) && file.close());
  tell(WriteStage::written);
  demand(::rename(name.c_str(), path.c_str()) == 0);
  temporary.is_gone();
  tell(WriteStage::renamed);
  if (!sync_folder(folder_of(path))) throw file_error("make durable", path, errno);
}

bool is_temporary(std::string_view name) {
  const auto ends_in_number = [&name](std::string_view before) {
    const std::size_t digits = name.size() - (name.find_last_not_of("0123456789") + 1);
    if (digits == 0 || digits == name.size()) return false;
    name.remove_suffix(digits);
    if (!name.ends_with(before)) return false;
    name.remove_suffix(before.size());
    return true;
  };
  return ends_in_number("-") && ends_in_number(".tmp-") && !name.empty();
}

Descriptor open_regular(const std::string& path) {
  // Looked at first: to open a FIFO waits for its writer, and to open a device may do something to it.
  struct stat status = {};
  const bool there = ::stat(path.c_str(), &status) == 0;
  if (there && S_ISDIR(status.st_mode)) throw file_error("read", path, EISDIR);
  if (there && !S_ISREG(status.st_mode)) throw not_regular("read", path, status.st_mode);
  Descriptor file = there ? open_file(path, O_RDONLY) : Descriptor(-1);
  if (file) return file;
  if (errno == ENOENT || errno == ENOTDIR) {
    throw Error(ExitCode::missing, fmt::format("there is no file {}", path), "check the path");
  }
  throw file_error("read", path, errno);
}

std::string read_file(const std::string& path) {
  const Descriptor file = open_regular(path);
  std::string bytes;
  struct stat status;
  if (::fstat(file.number(), &status) == 0 && status.st_size > 0) {
    bytes.reserve(static_cast<std::size_t>(status.st_size) + 1);
  }
  std::size_t size = 0;
  for (;;) {
    if (size == bytes.size()) bytes.resize(std::max(bytes.capacity(), size + (std::size_t{1} << 16)));
    const ssize_t got = ::read(file.number(), bytes.data() + size, std::min(bytes.size() - size, kLargestWrite));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw file_error("read", path, errno);
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
  }
  bytes.resize(size);
  return bytes;
}

void sync_file(const std::string& path) {
  Descriptor file = open_file(path, O_RDONLY | O_NONBLOCK);
  if (!file && errno == ENOENT) return;
  if (!file || !sync(file.number())) throw file_error("make durable", path, errno);
}

int64_t cut_file(const std::string& path, int64_t bytes) {
  const Descriptor file = open_file(path, O_RDWR);
  if (!file && errno == ENOENT) return 0;
  struct stat status;
  if (!file || ::fstat(file.number(), &status) != 0) throw file_error("cut", path, errno);
  if (status.st_size <= bytes) return status.st_size;
  if (::ftruncate(file.number(), bytes) != 0) throw file_error("cut", path, errno);
  return bytes;
}

void make_folder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (!error && !std::filesystem::is_directory(path, error) && !error) error.assign(ENOTDIR, std::generic_category());
  if (error) throw file_error("make the folder", path, error.value());
}

AppendFile::AppendFile(std::string path, Mode mode)
    : path_(std::move(path)),
      file_(open_file(path_, O_RDWR | O_CREAT | O_APPEND | (mode == Mode::create ? O_EXCL : 0), 0666)) {
  struct stat status = {};
  if (!file_ || ::fstat(file_.number(), &status) != 0) throw file_error("write", path_, errno);
  if (S_ISFIFO(status.st_mode)) throw not_regular("write", path_, status.st_mode);
  size_ = std::max<int64_t>(0, ::lseek(file_.number(), 0, SEEK_END));  // a device has no size
}

void AppendFile::append(std::string_view bytes) {
  if (!write_all(file_.number(), bytes)) {
    const int error_number = errno;
    // Best effort: without it, the next append would follow a torn record. (A device such as /dev/full cannot be cut.)
    [[maybe_unused]] const int ignored = ::ftruncate(file_.number(), size_);
    throw file_error("write", path_, error_number);
  }
  size_ += static_cast<int64_t>(bytes.size());
}

void AppendFile::cut_torn_line() {
  int64_t end = size_;
  char byte = 0;
  while (end > 0) {
    if (::pread(file_.number(), &byte, 1, end - 1) != 1) throw file_error("read", path_, errno);
    if (byte == '\n') break;
    --end;
  }
  if (end == size_) return;
  if (::ftruncate(file_.number(), end) != 0) throw file_error("write", path_, errno);
  size_ = end;
}

}  // namespace lockstep
