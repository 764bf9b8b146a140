#include "store/files.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <functional>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "../expect_error.h"
#include "../temporary_folder.h"

namespace lockstep {
namespace {

using test::bytes_of;
using test::expect_error;
using test::put_file;
using test::TemporaryFolder;

// Runs `work` in a child that may not write files of more than `bytes`. In the child gtest's expectations print; the
// exit status says whether they held.
void with_file_limit(rlim_t bytes, const std::function<void()>& work) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{bytes, bytes};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    work();
    std::fflush(nullptr);
    ::_exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
}

TEST(WriteDurably, MakesAndReplacesAFileAndLeavesNothingElse) {
  TemporaryFolder folder;
  const std::string path = folder / "wéights.pth";
  write_durably(path, "old");
  EXPECT_EQ(bytes_of(path), "old");
  const std::string large(3'000'001, 'x');
  write_durably(path, large);
  EXPECT_EQ(bytes_of(path), large);
  write_durably(path, "");
  EXPECT_EQ(bytes_of(path), "");
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(WriteDurably, WritesPiecesOneAfterTheOther) {
  TemporaryFolder folder;
  std::vector<std::string> texts(1000);
  for (size_t i = 0; i < texts.size(); ++i)
    texts[i] = std::string(i % 3 == 0 ? 0 : i % 17, static_cast<char>('a' + i % 26));
  texts[500] = std::string(3'000'001, 'x');
  std::vector<std::string_view> pieces(700);  // more empty ones than one writev(2) takes
  pieces.insert(pieces.end(), texts.begin(), texts.end());
  std::string whole;
  for (const std::string_view piece : pieces) whole += piece;

  size_t half = 0;
  write_durably(folder / "file", pieces, [&](WriteStage stage) {
    if (stage != WriteStage::half_written) return;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path())) half = entry.file_size();
  });
  EXPECT_EQ(half, whole.size() / 2);
  EXPECT_TRUE(bytes_of(folder / "file") == whole);
  write_durably(folder / "file", std::vector<std::string_view>{});
  EXPECT_EQ(bytes_of(folder / "file"), "");
}

// How many of a file's pages the kernel has in its cache.
size_t cached_pages(const std::string& path, size_t size) {
  const int descriptor = ::open(path.c_str(), O_RDONLY);
  EXPECT_GE(descriptor, 0);
  void* const memory = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor, 0);
  ::close(descriptor);
  EXPECT_NE(memory, MAP_FAILED);
  std::vector<unsigned char> there((size + 4095) / 4096);
  EXPECT_EQ(::mincore(memory, size, there.data()), 0);
  ::munmap(memory, size);
  return static_cast<size_t>(std::count_if(there.begin(), there.end(), [](unsigned char page) { return page & 1; }));
}

bool knows_direct_writes(const TemporaryFolder& folder) {
  const int descriptor = ::open((folder / "probe").c_str(), O_CREAT | O_WRONLY | O_DIRECT, 0600);
  if (descriptor >= 0) ::close(descriptor);
  ::unlink((folder / "probe").c_str());
  return descriptor >= 0;
}

TEST(WriteDurably, WritesLargePiecesFromWhereTheyArePastTheCache) {
  TemporaryFolder folder;
  const size_t size = size_t{6} << 20;
  const std::unique_ptr<char, decltype(&std::free)> memory(static_cast<char*>(std::aligned_alloc(4096, size)),
                                                           &std::free);
  for (size_t i = 0; i < size; ++i) memory.get()[i] = static_cast<char>(i * 2654435761u >> 13);
  for (const size_t header_size : {0, 100, 4096, 8192, 4097}) {
    for (const size_t tail_size : {0, 5, 70'000}) {
      for (const size_t cut : {size_t{0}, size_t{3000}}) {  // where it does not end on a page
        const std::string header(header_size, 'h'), tail(tail_size, 't');
        const std::string_view large(memory.get(), size - cut);
        write_durably(folder / "file", std::vector<std::string_view>{header, large, tail});
        EXPECT_TRUE(bytes_of(folder / "file") == header + std::string(large) + tail)
            << header_size << " " << cut << " " << tail_size;
      }
    }
  }
  if (!knows_direct_writes(folder)) GTEST_SKIP() << "the temporary folder's file system has no O_DIRECT";
  const std::string header(4096, 'h');
  write_durably(folder / "new", std::vector<std::string_view>{header, std::string_view(memory.get(), size - 100)});
  EXPECT_LE(cached_pages(folder / "new", size + 4096 - 100), 1u);
}

// Files of some megabytes go past the kernel's cache where they can: not in shared memory.
TEST(WriteDurably, WritesLargeFilesTheSameWayEverywhere) {
  for (const std::filesystem::path& parent :
       {std::filesystem::temp_directory_path(), std::filesystem::path("/dev/shm")}) {
    TemporaryFolder folder(parent);
    for (const size_t size : {size_t{4} << 20, (size_t{5} << 20) + 1, (size_t{9} << 20) - 4097}) {
      std::string whole(size, '\0');
      for (size_t i = 0; i < size; ++i) whole[i] = static_cast<char>(i * 2654435761u >> 13);
      std::vector<std::string_view> pieces;
      for (size_t at = 0, part = 1; at < size; at += part, part = part * 3 % 2'000'003) {
        pieces.push_back(std::string_view(whole).substr(at, part));
      }
      size_t half = 0;
      write_durably(folder / "file", pieces, [&](WriteStage stage) {
        if (stage != WriteStage::half_written) return;
        for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
          if (entry.path().string().find(".tmp-") != std::string::npos) half = entry.file_size();
        }
      });
      EXPECT_NEAR(static_cast<double>(half), static_cast<double>(size) / 2, 4096) << parent;
      EXPECT_TRUE(bytes_of(folder / "file") == whole) << parent << " " << size;
    }
  }
}

TEST(WriteDurably, NeverShowsAReaderAPartOfTheNewFile) {
  TemporaryFolder folder;
  const std::string path = folder / "file";
  write_durably(path, "old");
  const int reader = ::open(path.c_str(), O_RDONLY);
  write_durably(path, "newer");
  char buffer[16] = {};
  EXPECT_EQ(::read(reader, buffer, sizeof(buffer)), 3);  // the old file lives on for who holds it
  EXPECT_STREQ(buffer, "old");
  ::close(reader);
}

TEST(WriteDurably, FollowsTheUmask) {
  TemporaryFolder folder;
  const mode_t before = ::umask(027);
  write_durably(folder / "file", "x");
  ::umask(before);
  struct stat status {};
  ASSERT_EQ(::stat((folder / "file").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640u);
}

TEST(WriteDurably, WorksInTheCurrentFolder) {
  TemporaryFolder folder;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  EXPECT_NO_THROW(write_durably("bare name", "x"));
  std::filesystem::current_path(before);
  EXPECT_EQ(bytes_of(folder / "bare name"), "x");
}

TEST(WriteDurably, StepsAroundTheTemporaryFileOfAKilledProcess) {
  TemporaryFolder folder;
  for (int i = 0; i < 300; ++i)
    put_file(folder / ("file.tmp-" + std::to_string(::getpid()) + "-" + std::to_string(i)), "");
  write_durably(folder / "file", "x");
  EXPECT_EQ(bytes_of(folder / "file"), "x");
}

TEST(WriteDurably, SaysThatTheFolderIsMissing) {
  TemporaryFolder folder;
  expect_error(ExitCode::io, {folder / "no/file", "No such file or directory"},
               [&] { write_durably(folder / "no/file", "x"); });
}

TEST(WriteDurably, KeepsTheOldFileWhenTheNewOneDoesNotFit) {
  TemporaryFolder folder;
  const std::string path = folder / "file";
  put_file(path, "old");
  with_file_limit(1000, [&] {
    expect_error(ExitCode::io, {path, "File too large"}, [&] { write_durably(path, std::string(5000, 'x')); });
  });
  EXPECT_EQ(bytes_of(path), "old");
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(WriteDurably, SaysThatALargeFileIsTooLargeWhereverTheLimitLies) {
  TemporaryFolder folder;
  const std::string large(size_t{6} << 20, 'y');
  for (const rlim_t limit : {100u, 4096u * 3, 4096u * 3 + 1, 5u << 20, (5u << 20) + 77}) {
    with_file_limit(limit, [&] {
      expect_error(ExitCode::io, {folder / "file", "File too large"}, [&] { write_durably(folder / "file", large); });
    });
    EXPECT_EQ(folder.entries(), 0u) << limit;
  }
}

TEST(WriteDurably, LeavesNothingWhenItCannotRename) {
  TemporaryFolder folder;
  std::filesystem::create_directories(folder / "file/below");
  expect_error(ExitCode::io, {folder / "file"}, [&] { write_durably(folder / "file", "x"); });
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(WriteDurably, TellsEachStageAndWhatIsOnTheDiskThen) {
  TemporaryFolder folder;
  const std::string path = folder / "file";
  put_file(path, "old");
  const auto temporary = [&] {
    for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
      if (is_temporary(entry.path().filename().string())) return entry.path().string();
    return std::string();
  };
  std::vector<std::string> seen;
  write_durably(path, "abcdef", [&](WriteStage stage) {
    const char* names[] = {"half", "written", "renamed"};
    const std::string other = temporary();
    seen.push_back(std::string(names[static_cast<int>(stage)]) + " " + bytes_of(path) + " " +
                   (other.empty() ? "-" : bytes_of(other)));
  });
  EXPECT_EQ(seen, (std::vector<std::string>{"half old abc", "written old abcdef", "renamed abcdef -"}));
}

TEST(WriteDurably, WhatAnObserverThrowsPassesOnAndLeavesNoTemporaryFile) {
  for (const WriteStage bad : {WriteStage::half_written, WriteStage::written, WriteStage::renamed}) {
    TemporaryFolder folder;
    const std::string path = folder / "file";
    put_file(path, "old");
    EXPECT_THROW(write_durably(path, "new",
                               [&](WriteStage stage) {
                                 if (stage == bad) throw std::domain_error("fenced");
                               }),
                 std::domain_error);
    EXPECT_EQ(bytes_of(path), bad == WriteStage::renamed ? "new" : "old");
    EXPECT_EQ(folder.entries(), 1u);
  }
}

TEST(IsTemporary, KnowsTheNamesOfWriteDurablyOnly) {
  for (const char* name : {"a.tmp-1-0", "step-0000001.safetensors.tmp-4711-12", "latest.tmp-9-9"})
    EXPECT_TRUE(is_temporary(name)) << name;
  for (const char* name : {"", "a", "a.tmp", "a.tmp-", "a.tmp-1", "a.tmp-1-", "a.tmp--1", "a.tmp-x-1", "a.tmp-1-x",
                           "tmp-1-2", ".tmp-1-2", "1", "1-2", "step-0000001.safetensors"})
    EXPECT_FALSE(is_temporary(name)) << name;
}

TEST(ReadFile, GivesTheBytes) {
  TemporaryFolder folder;
  for (const std::size_t size : {0, 1, 65'536, 65'537, 1'000'000}) {
    const std::string bytes(size, 'b');
    put_file(folder / "file", bytes);
    EXPECT_EQ(read_file(folder / "file"), bytes);
  }
  EXPECT_NE(read_file("/proc/self/status").find("VmRSS"), std::string::npos);  // says that its size is 0
}

TEST(ReadFile, SaysWhyItCannot) {
  TemporaryFolder folder;
  expect_error(ExitCode::missing, {folder / "nothing"}, [&] { read_file(folder / "nothing"); });
  expect_error(ExitCode::io, {folder.path(), "Is a directory"}, [&] { read_file(folder.path()); });
}

TEST(MakeFolder, MakesAllAndAcceptsWhatIsThere) {
  TemporaryFolder folder;
  make_folder(folder / "a/b ü/c");
  make_folder(folder / "a/b ü/c");
  make_folder(folder / "trailing/");
  EXPECT_TRUE(std::filesystem::is_directory(folder / "a/b ü/c"));
  put_file(folder / "file", "");
  expect_error(ExitCode::io, {folder / "file"}, [&] { make_folder(folder / "file"); });
  expect_error(ExitCode::io, {folder / "file/x"}, [&] { make_folder(folder / "file/x"); });
}

// To open a FIFO waits for its other end, and some devices never end: both would hang.
TEST(ReadFile, RefusesAFifoADeviceAndASocketAtOnce) {
  TemporaryFolder folder;
  const std::string fifo = folder / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  expect_error(ExitCode::io, {fifo, "FIFO"}, [&] { read_file(fifo); });
  expect_error(ExitCode::io, {fifo, "FIFO"}, [&] { AppendFile(fifo, AppendFile::Mode::append); });
  sync_file(folder / "nothing");
  ASSERT_EQ(::symlink("/dev/zero", (folder / "link").c_str()), 0);
  expect_error(ExitCode::io, {folder / "link", "a device"}, [&] { read_file(folder / "link"); });
  ASSERT_EQ(::mknod((folder / "socket").c_str(), S_IFSOCK | 0600, 0), 0);
  expect_error(ExitCode::io, {folder / "socket", "a socket"}, [&] { read_file(folder / "socket"); });
}

TEST(FileHint, FitsTheErrorOfTheSystem) {
  const std::pair<int, const char*> hints[] = {
      {EMFILE, "ulimit -n"}, {ENFILE, "file-nr"},     {ENOMEM, "memory"},  {EACCES, "permissions"},
      {EROFS, "read-only"},  {ENOSPC, "df -i"},       {EDQUOT, "quota"},   {ENAMETOOLONG, "shorter"},
      {ELOOP, "circle"},     {ESTALE, "network"},     {EIO, "the disk"},   {ETIMEDOUT, "does not answer"},
      {EFBIG, "ulimit -f"},  {EISDIR, "is a folder"}, {ENXIO, "a regular"}};
  for (const auto& [number, words] : hints) {
    const Error error = file_error("read", "/some/where", number);
    EXPECT_THAT(error.hint(), testing::HasSubstr(words)) << number;
    EXPECT_EQ(error.hint(), file_hint(number, "/some/where"));
    EXPECT_EQ(error.code(), ExitCode::io);
  }
}

TEST(ReadFile, SaysThatTooManyFilesAreOpen) {
  TemporaryFolder folder;
  put_file(folder / "file", "x");
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const rlimit limit{3, 3};
    ::setrlimit(RLIMIT_NOFILE, &limit);
    try {
      read_file(folder / "file");
    } catch (const Error& error) {
      ::_exit(error.hint().find("ulimit -n") != std::string::npos ? 0 : 1);
    }
    ::_exit(2);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
}

TEST(AppendFile, GoesOnAtTheEnd) {
  TemporaryFolder folder;
  AppendFile(folder / "log", AppendFile::Mode::append).append("one\n");
  AppendFile log(folder / "log", AppendFile::Mode::append);
  EXPECT_EQ(log.size(), 4);
  log.append("two\n");
  EXPECT_EQ(log.size(), 8);
  AppendFile moved(std::move(log));
  moved.append("three\n");
  EXPECT_EQ(bytes_of(folder / "log"), "one\ntwo\nthree\n");
}

TEST(AppendFile, CreateRefusesAFileThatIsThere) {
  TemporaryFolder folder;
  AppendFile(folder / "log", AppendFile::Mode::create).append("x");
  expect_error(ExitCode::io, {folder / "log", "File exists"},
               [&] { AppendFile(folder / "log", AppendFile::Mode::create); });
}

TEST(AppendFile, CutsATornLine) {
  TemporaryFolder folder;
  const auto cut = [&](const std::string& before) {
    put_file(folder / "log", before);
    AppendFile log(folder / "log", AppendFile::Mode::append);
    log.cut_torn_line();
    log.append("new\n");
    return bytes_of(folder / "log");
  };
  EXPECT_EQ(cut("one\ntwo"), "one\nnew\n");
  EXPECT_EQ(cut("one\n"), "one\nnew\n");
  EXPECT_EQ(cut("torn"), "new\n");
  EXPECT_EQ(cut(""), "new\n");
}

TEST(AppendFile, SaysThatTheDiskIsFull) {
  AppendFile full("/dev/full", AppendFile::Mode::append);
  expect_error(ExitCode::io, {"/dev/full", "No space left on device"}, [&] { full.append("x"); });
}

TEST(AppendFile, KeepsNoPartOfARecordThatDoesNotFit) {
  TemporaryFolder folder;
  const std::string path = folder / "log";
  with_file_limit(100, [&] {
    AppendFile log(path, AppendFile::Mode::create);
    log.append(std::string(60, 'a'));
    expect_error(ExitCode::io, {path, "File too large"}, [&] { log.append(std::string(60, 'b')); });
    log.append(std::string(30, 'c'));
  });
  EXPECT_EQ(bytes_of(path), std::string(60, 'a') + std::string(30, 'c'));
}

}  // namespace
}  // namespace lockstep
