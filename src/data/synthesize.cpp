// Images that a small network learns: each class has a smooth pattern of colours, each image shifts it, changes its
// contrast and adds noise. Integers only, so that the same seed gives the same bytes on every machine.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <string>

#include "data/synthetic.h"
#include "lockstep/cifar10.h"
#include "lockstep/error.h"
#include "store/files.h"

namespace lockstep {
namespace {

constexpr int kClassCount = static_cast<int>(Cifar10::kClasses.size());
constexpr int kTrainFiles = 5;
constexpr int64_t kMostImages = 500'000;  // a file is made in memory: 300 MB at most
constexpr int kImageSide = 32;
constexpr int kCell = 8;                   // pixels between the points of a pattern's grid
constexpr int kGrid = kImageSide / kCell;  // points a side; the pattern is periodic
constexpr int kContrast = 76;              // largest distance of a pattern from middle grey
constexpr int kLargestShift = 4;           // pixels, in each direction
constexpr int kNoise = 32;                 // noise is -32 … 31

// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
class SplitMix {
 public:
  explicit SplitMix(uint64_t state) : state_(state) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }
  /// 0 … limit - 1; the bias is below 2^-32 for the small limits here.
  int below(int limit) { return static_cast<int>((next() >> 32) * static_cast<uint64_t>(limit) >> 32); }

 private:
  uint64_t state_;
};

// A generator of its own for each image, so that an image does not depend on how many there are.
SplitMix generator(uint64_t seed, uint64_t stream, int64_t index) {
  SplitMix mixer(seed);
  const uint64_t first = mixer.next();
  SplitMix second(first ^ stream * 0xd1342543de82ef95);
  SplitMix third(second.next() + static_cast<uint64_t>(index));
  return SplitMix(third.next());
}

// Planes red, green, blue of one class: values -kContrast … kContrast.
using Pattern = std::array<std::array<std::array<int, kImageSide>, kImageSide>, 3>;

Pattern make_pattern(SplitMix random) {
  Pattern pattern;
  for (auto& plane : pattern) {
    int grid[kGrid][kGrid];
    for (auto& row : grid) {
      for (int& point : row) point = random.below(2 * kContrast + 1) - kContrast;
    }
    for (int y = 0; y < kImageSide; ++y) {
      for (int x = 0; x < kImageSide; ++x) {
        const int top = y / kCell, left = x / kCell, down = y % kCell, right = x % kCell;
        const int bottom = (top + 1) % kGrid, other = (left + 1) % kGrid;
        const int upper = grid[top][left] * (kCell - right) + grid[top][other] * right;
        const int lower = grid[bottom][left] * (kCell - right) + grid[bottom][other] * right;
        plane[static_cast<std::size_t>(y)][static_cast<std::size_t>(x)] =
            (upper * (kCell - down) + lower * down) / (kCell * kCell);
      }
    }
  }
  return pattern;
}

using Patterns = std::array<Pattern, kClassCount>;

void draw_record(SplitMix random, const Patterns& patterns, uint8_t* record) {
  const int label = random.below(kClassCount);
  const int contrast = 6 + random.below(5);  // eighths
  const int shift_y = random.below(2 * kLargestShift + 1) + kImageSide - kLargestShift;
  const int shift_x = random.below(2 * kLargestShift + 1) + kImageSide - kLargestShift;
  *record++ = static_cast<uint8_t>(label);
  uint64_t noise = 0;
  int pixel = 0;
  for (const auto& plane : patterns[static_cast<std::size_t>(label)]) {
    for (int y = 0; y < kImageSide; ++y) {
      const auto& row = plane[static_cast<std::size_t>((y + shift_y) % kImageSide)];
      for (int x = 0; x < kImageSide; ++x, ++pixel) {
        if (pixel % 8 == 0) noise = random.next();
        const int grain = static_cast<int>(noise & (2 * kNoise - 1)) - kNoise;
        noise >>= 8;
        const int value = 128 + row[static_cast<std::size_t>((x + shift_x) % kImageSide)] * contrast / 8 + grain;
        *record++ = static_cast<uint8_t>(std::clamp(value, 0, 255));
      }
    }
  }
}

std::string make_file(uint64_t seed, uint64_t stream, int64_t first, int64_t count, const Patterns& patterns) {
  std::string bytes(static_cast<std::size_t>(count * Cifar10::kRecordBytes), '\0');
  auto* records = reinterpret_cast<uint8_t*>(bytes.data());
  for (int64_t i = 0; i < count; ++i) {
    draw_record(generator(seed, stream, first + i), patterns, records + i * Cifar10::kRecordBytes);
  }
  uint8_t* signature = records + 1;
  std::memcpy(signature, kSyntheticSignature.data(), kSyntheticSignature.size());
  for (std::size_t byte = 0; byte < 8; ++byte) {
    signature[kSyntheticSignature.size() + byte] = static_cast<uint8_t>(static_cast<uint64_t>(count) >> 8 * byte);
  }
  return bytes;
}

void check_count(const char* what, int64_t count, int64_t divisor) {
  if (count >= divisor && count <= kMostImages && count % divisor == 0) return;
  throw Error(ExitCode::usage, fmt::format("cannot make {} {} images", count, what),
              divisor == 1 ? fmt::format("give 1 to {}", kMostImages)
                           : fmt::format("give a multiple of {}, up to {}", divisor, kMostImages));
}

void refuse_folder_with_data(const std::string& folder) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() != ".bin") continue;
    throw Error(ExitCode::usage, fmt::format("{} already holds {}", folder, entry.path().filename().string()),
                "choose another folder, or remove the .bin files first");
  }
}

}  // namespace

void synthesize_cifar10(const std::string& folder, const SynthesizeOptions& options) {
  check_count("training", options.train_images, kTrainFiles);
  check_count("test", options.test_images, 1);
  refuse_folder_with_data(folder);
  make_folder(folder);

  enum : uint64_t { kPatternStream, kTrainStream, kTestStream };
  Patterns patterns;
  for (std::size_t label = 0; label < patterns.size(); ++label) {
    patterns[label] = make_pattern(generator(options.seed, kPatternStream, static_cast<int64_t>(label)));
  }
  const std::filesystem::path root(folder);
  const int64_t per_file = options.train_images / kTrainFiles;
  for (int file = 0; file < kTrainFiles; ++file) {
    write_durably((root / fmt::format("data_batch_{}.bin", file + 1)).string(),
                  make_file(options.seed, kTrainStream, file * per_file, per_file, patterns));
  }
  write_durably((root / "test_batch.bin").string(),
                make_file(options.seed, kTestStream, 0, options.test_images, patterns));
}

}  // namespace lockstep
