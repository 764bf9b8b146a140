#include "data/fetch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "data/process.h"
#include "lockstep/cifar10.h"
#include "lockstep/error.h"
#include "store/files.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSetFolder = "cifar-10-batches-bin";
constexpr int kCurlCannotWrite = 23, kWgetFileError = 3;

bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

// A folder that vanishes with all it holds; so does its parent if it was made for it and nothing else is in it by then.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(const fs::path& parent) : made_parent_(!is_there(parent)), parent_(parent) {
    make_folder(parent.string());
    std::string name = (parent / ".fetch-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw file_error("make a folder in", parent.string(), errno);
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
    if (made_parent_) fs::remove(parent_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  bool made_parent_;
  fs::path parent_;
  fs::path path_;
};

std::string by_hand_hint(const FetchOptions& options) {
  return fmt::format(
      "put the .bin files of {} into '{}/{}' by hand, or train on a stand-in: `lockstep data synthesize --out DIR`",
      options.url, options.out, kSetFolder);
}

void download(const FetchOptions& options, const std::string& archive) {
  const bool terminal = ::isatty(STDERR_FILENO) == 1;
  std::vector<std::string> curl = {"curl", "--fail", "--location", "--connect-timeout", "20", "--retry", "3"};
  for (const char* flag : {"--speed-limit", "1000", "--speed-time", "60"})
    curl.push_back(flag);  // a stalled transfer ends
  if (terminal) {
    curl.push_back("--progress-bar");
  } else {
    for (const char* flag : {"--silent", "--show-error"}) curl.push_back(flag);
  }
  for (const auto& argument : {std::string("--output"), archive, std::string("--url"), options.url})
    curl.push_back(argument);

  std::fflush(stdout);
  ProcessResult result = run_process(curl);
  int cannot_write = kCurlCannotWrite;
  if (result.not_found) {
    result = run_process({"wget", "--tries=3", "--timeout=60", terminal ? "--show-progress" : "--no-verbose", "--quiet",
                          "--output-document", archive, "--", options.url});
    cannot_write = kWgetFileError;
  }
  if (result.not_found) {
    throw Error(ExitCode::missing, "neither curl nor wget is installed, so nothing can be downloaded",
                "install curl; or " + by_hand_hint(options));
  }
  if (result.exit_status == cannot_write) {
    throw Error(ExitCode::io, fmt::format("cannot write the archive to {}", options.out),
                fmt::format("see `df -h '{}'`", options.out));
  }
  if (result.exit_status != 0) {
    throw Error(ExitCode::missing, fmt::format("cannot download {} ({})", options.url, result.describe()),
                by_hand_hint(options));
  }
}

void verify(const FetchOptions& options, const std::string& archive) {
  const ProcessResult result = run_process({"md5sum"}, archive);
  if (result.not_found || result.exit_status != 0) {
    throw Error(ExitCode::io, fmt::format("cannot take the MD5 of {} ({})", archive, result.describe()),
                "install coreutils");
  }
  const std::string found = result.output.substr(0, result.output.find(' '));
  std::string expected = options.md5;
  std::transform(expected.begin(), expected.end(), expected.begin(), [](unsigned char c) { return std::tolower(c); });
  if (found != expected) {
    throw Error(ExitCode::damaged,
                fmt::format("the archive from {} is not the published one: its MD5 is {}, expected {}; it was removed",
                            options.url, found, expected),
                "try again; if it stays so, give another --url, or its digest by --md5");
  }
}

void unpack(const FetchOptions& options, const std::string& archive, const std::string& folder) {
  const ProcessResult result =
      run_process({"tar", "--extract", "--gzip", "--no-same-owner", "--file", archive, "--directory", folder});
  if (result.not_found || result.exit_status != 0) {
    throw Error(ExitCode::io, fmt::format("cannot unpack the archive from {} ({})", options.url, result.describe()),
                fmt::format("check that tar and gzip are installed, and the space: `df -h '{}'`", options.out));
  }
}

// True for a complete real set; false when nothing is in the way.
bool already_there(const fs::path& target) {
  std::error_code error;
  if (!fs::exists(target, error) || (fs::is_directory(target, error) && fs::is_empty(target, error))) return false;
  std::string problem = "holds synthetic images";
  try {
    Cifar10::open(target.string(), Cifar10::Split::test);
    if (!Cifar10::open(target.string(), Cifar10::Split::train).synthetic()) return true;
  } catch (const Error& damage) {
    problem = fmt::format("is not a complete set: {}", damage.what());
  }
  throw Error(ExitCode::usage, fmt::format("{} {}", target.string(), problem), "remove it, or choose another --out");
}

}  // namespace

void fetch_cifar10(const FetchOptions& options) {
  const fs::path target = fs::path(options.out) / kSetFolder;
  if (already_there(target)) return;
  const TemporaryFolder temporary(options.out);
  const std::string archive = (temporary.path() / "archive.tar.gz").string();
  fmt::print("downloading {}\n", options.url);
  download(options, archive);
  verify(options, archive);
  unpack(options, archive, temporary.path().string());
  const fs::path unpacked = temporary.path() / kSetFolder;
  Cifar10::open(unpacked.string(), Cifar10::Split::train);
  Cifar10::open(unpacked.string(), Cifar10::Split::test);
  // A power cut after the rename may not leave files of zeros, which look like images.
  const Descriptor folder = open_file(unpacked.string(), O_RDONLY | O_DIRECTORY);
  if (!folder || ::syncfs(folder.number()) != 0) throw file_error("write", target.string(), errno);
  if (std::rename(unpacked.c_str(), target.c_str()) != 0) throw file_error("make", target.string(), errno);
}

}  // namespace lockstep
