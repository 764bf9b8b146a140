// The CIFAR-10 images in their binary layout, mapped from the files.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace lockstep {

/// One split of CIFAR-10. Format: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version": records of one label
/// byte (0-9) and 3,072 bytes of pixels: a 32x32 red plane, row by row, then green, then blue.
///
///     auto train = Cifar10::open(Cifar10::find("data"), Cifar10::Split::train);
///     at::Tensor images, labels;
///     train.batch(indices, images, labels);
///
/// The files are mapped read-only, so the ranks of a host share one copy in the page cache. Local; const members may be
/// called from several threads.
class Cifar10 {
 public:
  enum class Split { train, test };

  static constexpr int64_t kPixels = 3 * 32 * 32;
  static constexpr int64_t kRecordBytes = 1 + kPixels;
  static constexpr int64_t kRecordsPerFile = 10'000;
  static constexpr std::array<const char*, 10> kClasses = {"airplane", "automobile", "bird",  "cat",  "deer",
                                                           "dog",      "frog",       "horse", "ship", "truck"};

  /// The folder that holds the .bin files: `dir` itself or `dir`/cifar-10-batches-bin.
  /// Throws Error (ExitCode::missing) naming both when neither holds data_batch_1.bin or test_batch.bin.
  static std::string find(const std::string& dir);

  /// Maps and checks the files of a split in `folder` (data_batch_1.bin … data_batch_5.bin, or test_batch.bin).
  /// Throws Error: ExitCode::missing for a missing file; ExitCode::damaged for an empty, truncated or oversized one (a
  /// file of real data holds exactly 10,000 records, one made by `synthesize` what its first record says) or a label
  /// above 9; ExitCode::io when a file cannot be read.
  static Cifar10 open(const std::string& folder, Split split);

  /// A file of the split.
  struct Source {
    std::string path;
    std::string identity;  ///< device, inode, size and times when it was opened: other bytes, another identity
    std::span<const uint8_t> bytes;  ///< mapped, as long as this set or a copy of it lives
  };
  /// The files in their order. Local.
  std::vector<Source> sources() const;

  /// The XXH3 (128 bits, 32 hexadecimal digits) of every byte of the split: of its files' digests, one after the other.
  /// A file is read once in a process, at about 10 GB/s a thread; later calls know its digest. Local.
  std::string digest(int threads = 1) const;

  int64_t size() const { return size_; }
  /// Made by `lockstep data synthesize`, not photographs.
  bool synthetic() const { return synthetic_; }
  const std::string& folder() const { return folder_; }

  /// 0-9. `index` in [0, size()).
  uint8_t label(int64_t index) const { return *record(index); }
  /// The kPixels bytes of an image: planes red, green, blue.
  const uint8_t* pixels(int64_t index) const { return record(index) + 1; }

  /// images: float32 [n, 3, 32, 32], each byte divided by 255 as torchvision's ToTensor does; labels: int64 [n].
  /// Tensors of that shape and type are filled in place, anything else is replaced. Throws Error (internal) for an
  /// index outside the set.
  void batch(std::span<const int64_t> indices, at::Tensor& images, at::Tensor& labels) const;

 private:
  struct File;
  Cifar10() = default;
  const uint8_t* record(int64_t index) const;

  std::vector<std::shared_ptr<const File>> files_;
  int64_t records_per_file_ = 0;  // every file of a split holds as many
  int64_t size_ = 0;
  bool synthetic_ = false;
  std::string folder_;
};

/// How many images `synthesize_cifar10` makes, and from which seed.
struct SynthesizeOptions {
  int64_t train_images = 50'000;  ///< a multiple of 5, up to 500,000
  int64_t test_images = 10'000;   ///< up to 500,000
  uint64_t seed = 0;
};

/// Writes learnable images in the layout of CIFAR-10 to `folder` (made if absent): five training files and a test file.
/// The first record of each file carries a signature in its pixels, so every reader knows that the data is synthetic.
/// The same options give the same bytes on every machine. Each file is written durably. Local. Throws Error: usage for
/// bad counts or a folder that already holds .bin files, io when it cannot be written.
void synthesize_cifar10(const std::string& folder, const SynthesizeOptions& options);

}  // namespace lockstep
