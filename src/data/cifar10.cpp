#include "lockstep/cifar10.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>

#include "data/file_digests.h"
#include "data/other_forms.h"
#include "data/synthetic.h"
#include "lockstep/augment.h"
#include "lockstep/error.h"
#include "log/text.h"
#include "store/digest.h"
#include "store/files.h"
#include "store/mapped_file.h"

namespace lockstep {
namespace {

std::vector<std::string> file_names(Cifar10::Split split) {
  if (split == Cifar10::Split::test) return {"test_batch.bin"};
  return {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"};
}

std::string fetch_hint(const std::string& folder) {
  return fmt::format("`lockstep data fetch` gets a good copy; `lockstep data check --data-dir '{}'` looks at all files",
                     folder);
}

Descriptor open_data(const std::string& path, const std::string& folder) {
  try {
    return open_regular(path);
  } catch (const Error& error) {
    if (error.code() != ExitCode::missing) throw;
    throw Error(ExitCode::missing, fmt::format("the data file {} is missing", path), fetch_hint(folder));
  }
}

}  // namespace

// A mapped file.
struct Cifar10::File {
  File(const std::string& name, const std::string& folder);

  int64_t check_records(const std::string& folder) const;

  std::string path;
  std::string identity;
  std::optional<MappedFile> mapped;
  const uint8_t* bytes = nullptr;
  int64_t size = 0;
  bool synthetic = false;
};

Cifar10::File::File(const std::string& name, const std::string& folder)
    : path((std::filesystem::path(folder) / name).string()) {
  Descriptor file = open_data(path, folder);
  struct stat status {};
  if (::fstat(file.number(), &status) != 0) throw file_error("read", path, errno);
  identity = file_identity(status);
  size = status.st_size;
  if (size == 0) {
    throw Error(ExitCode::damaged,
                fmt::format("{} is empty (0 bytes, expected {})", path, grouped(kRecordsPerFile * kRecordBytes)),
                fetch_hint(folder));
  }
  mapped.emplace(path, std::move(file), static_cast<std::size_t>(size));
  bytes = mapped->bytes();
}

// Says how many records the file holds, having checked that the size is right and every label is a class.
int64_t Cifar10::File::check_records(const std::string& folder) const {
  int64_t expected = kRecordsPerFile;
  if (synthetic) {
    uint64_t count = 0;
    for (int byte = 7; byte >= 0; --byte) {
      count = count << 8 | bytes[1 + kSyntheticSignature.size() + static_cast<std::size_t>(byte)];
    }
    // A count that no file could hold is as wrong as any other; the cap only keeps the product in range.
    expected = static_cast<int64_t>(std::min<uint64_t>(count, uint64_t{1} << 40));
  }
  if (size != expected * kRecordBytes) {
    const char* what = size < expected * kRecordBytes ? "truncated" : "too large";
    throw Error(ExitCode::damaged,
                fmt::format("{} is {}: {} bytes, expected {} ({} records of {} bytes)", path, what, grouped(size),
                            grouped(expected * kRecordBytes), grouped(expected), grouped(kRecordBytes)),
                synthetic ? "make it again with `lockstep data synthesize`" : fetch_hint(folder));
  }
  // Labels first as a whole, so the loop has no branch: it touches nearly every page of the file.
  uint8_t largest = 0;
  for (int64_t i = 0; i < expected; ++i) largest = std::max(largest, bytes[i * kRecordBytes]);
  if (largest >= kClasses.size()) {
    int64_t i = 0;
    while (bytes[i * kRecordBytes] < kClasses.size()) ++i;
    throw Error(ExitCode::damaged,
                fmt::format("{}: record {} has the label {}, expected 0 to {}", path, grouped(i),
                            bytes[i * kRecordBytes], kClasses.size() - 1),
                fetch_hint(folder));
  }
  return expected;
}

std::string Cifar10::find(const std::string& dir) {
  const auto inner = std::filesystem::path(dir) / "cifar-10-batches-bin";
  for (const auto& folder : {std::filesystem::path(dir), inner}) {
    for (const char* name : {"data_batch_1.bin", "test_batch.bin"}) {
      std::error_code error;
      if (std::filesystem::exists(folder / name, error)) return folder.string();
      if (error) throw file_error("read", (folder / name).string(), error.value());
    }
  }
  if (const auto other = look_for_other_forms(dir)) {
    throw Error(ExitCode::missing, fmt::format("no CIFAR-10 files (data_batch_1.bin, …) in {}: {}", dir, other->what),
                other->hint);
  }
  throw Error(
      ExitCode::missing, fmt::format("no CIFAR-10 files (data_batch_1.bin, …) in {} or {}", dir, inner.string()),
      fmt::format(
          "`lockstep data fetch --out '{0}'` gets them; without a network, `lockstep data synthesize --out '{0}'` "
          "makes a stand-in",
          dir));
}

Cifar10 Cifar10::open(const std::string& folder, Split split) {
  Cifar10 data;
  data.folder_ = folder;
  for (const std::string& name : file_names(split)) {
    auto file = std::make_shared<File>(name, folder);
    file->synthetic = file->size >= kRecordBytes &&
                      std::memcmp(file->bytes + 1, kSyntheticSignature.data(), kSyntheticSignature.size()) == 0;
    const int64_t records = file->check_records(folder);
    if (data.files_.empty()) {
      data.synthetic_ = file->synthetic;
      data.records_per_file_ = records;
    } else if (file->synthetic != data.synthetic_) {
      throw Error(ExitCode::damaged,
                  fmt::format("{} and {} do not belong together: one is synthetic, the other is not",
                              data.files_[0]->path, file->path),
                  "keep real and synthetic data in folders of their own");
    } else if (records != data.records_per_file_) {
      throw Error(ExitCode::damaged,
                  fmt::format("{} holds {} records, expected {} as in {}", file->path, grouped(records),
                              grouped(data.records_per_file_), data.files_[0]->path),
                  "make the set again with `lockstep data synthesize`");
    }
    data.files_.push_back(std::move(file));
    data.size_ += records;
  }
  return data;
}

std::vector<Cifar10::Source> Cifar10::sources() const {
  std::vector<Source> all;
  for (const auto& file : files_) {
    all.push_back({.path = file->path,
                   .identity = file->identity,
                   .bytes = std::span(file->bytes, static_cast<std::size_t>(file->size))});
  }
  return all;
}

std::string Cifar10::digest(int threads) const {
  std::string all;
  for (const std::string& one : file_digests(sources(), threads)) all += one;
  return digest_bytes(all);
}

const uint8_t* Cifar10::record(int64_t index) const {
  if (index < 0 || index >= size_) {
    throw Error(ExitCode::internal, fmt::format("image {} is outside a set of {}", index, size_));
  }
  const File& file = *files_[static_cast<std::size_t>(index / records_per_file_)];
  return file.bytes + index % records_per_file_ * kRecordBytes;
}

void Cifar10::batch(std::span<const int64_t> indices, at::Tensor& images, at::Tensor& labels) const {
  static const BatchPass as_they_are({});
  as_they_are.load(*this, indices, 0, images, labels);
}

}  // namespace lockstep
