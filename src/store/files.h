// Files that survive: durable replacement, appending, folders. Nothing here knows what the bytes mean.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lockstep/error.h"

namespace lockstep {

/// What to do when a file operation on `path` failed with `error_number` (an errno): the one place where such hints
/// are.
std::string file_hint(int error_number, const std::string& path);

/// Error (io) "cannot DO PATH: REASON" with the hint that fits `error_number`.
Error file_error(std::string_view doing, const std::string& path, int error_number);

/// An open file that closes itself. close() says whether that went well: on some file systems it is where a write
/// fails.
class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  explicit operator bool() const { return number_ >= 0; }
  int number() const { return number_; }
  /// False with errno on failure.
  bool close();

 private:
  int number_;
};

/// open(2), closed on exec, tried again when a signal interrupts it. False with errno on failure.
Descriptor open_file(const std::string& path, int flags, unsigned mode = 0);

/// Opens a regular file to read. A FIFO, socket, device or folder is refused at once, because a read of it could wait
/// for ever or never end. Throws Error: missing when there is no file, io.
Descriptor open_regular(const std::string& path);

/// How far write_durably has come.
enum class WriteStage {
  half_written,  ///< half of the bytes are in the temporary file
  written,       ///< all bytes are on the disk, still under the temporary name
  renamed,       ///< `path` is the new file; its folder is not fsynced yet
};

/// Replaces `path` by a file of these bytes, or leaves it as it was: written to a temporary file in the same folder,
/// fsynced, renamed, folder fsynced. When it returns, the file survives a power cut; when it throws, the temporary file
/// is gone. A crash may leave one, named PATH.tmp-PID-N. `at` is called at each stage; what it throws passes on, and
/// before the rename leaves `path` as it was. Throws Error (io).
void write_durably(const std::string& path, std::string_view bytes, const std::function<void(WriteStage)>& at = {});

/// The same for bytes that lie in several places; they are written from there, one after the other.
void write_durably(const std::string& path, std::vector<std::string_view> pieces,
                   const std::function<void(WriteStage)>& at = {});

/// Whether a file's name is that of a temporary file of write_durably.
bool is_temporary(std::string_view name);

/// The bytes of a regular file. Throws Error as open_regular does, and io when it cannot be read.
std::string read_file(const std::string& path);

/// Makes what was written to a file durable. One that is not there is fine. Throws Error (io).
void sync_file(const std::string& path);

/// Cuts a file to `bytes` if it is longer; gives its size then, 0 when there is none. Throws Error (io).
int64_t cut_file(const std::string& path, int64_t bytes);

/// Makes a folder and those above it; one that exists is fine. Throws Error (io).
void make_folder(const std::string& path);

/// A file that grows at its end and has one writer.
///
///     AppendFile log(path, AppendFile::Mode::append);
///     log.append("a line\n");
///
/// Each append is one write(2) where the system takes the bytes at once, so a reader sees whole records. Nothing is
/// fsynced.
class AppendFile {
 public:
  enum class Mode {
    create,  ///< the file must not exist yet
    append,  ///< goes on at the end of the file, makes it if there is none
  };

  /// Throws Error (io), also for a FIFO, whose reader could make every write wait.
  AppendFile(std::string path, Mode mode);

  /// Writes all bytes, or cuts the file back to what it held and throws Error (io).
  void append(std::string_view bytes);

  /// Cuts off what follows the last line break: the torn last line of a process that was killed.
  void cut_torn_line();

  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }

 private:
  std::string path_;
  Descriptor file_;
  int64_t size_ = 0;
};

}  // namespace lockstep
