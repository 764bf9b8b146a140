#include "store/zip_reader.h"

#include <fmt/format.h>

#include <cstdint>

#include "store/crc32.h"

namespace lockstep {
namespace {

// Little-endian numbers at checked places.
class Bytes {
 public:
  explicit Bytes(std::string_view bytes) : bytes_(bytes) {}

  std::string_view slice(uint64_t at, uint64_t size) const {
    if (at > bytes_.size() || size > bytes_.size() - at)
      throw Malformed("the file is truncated or its directory damaged");
    return bytes_.substr(at, size);
  }
  uint64_t number(uint64_t at, unsigned size) const {
    uint64_t value = 0;
    const std::string_view digits = slice(at, size);
    for (unsigned i = 0; i < size; ++i) value |= uint64_t{static_cast<uint8_t>(digits[i])} << 8 * i;
    return value;
  }
  uint32_t u32(uint64_t at) const { return static_cast<uint32_t>(number(at, 4)); }
  uint32_t u16(uint64_t at) const { return static_cast<uint32_t>(number(at, 2)); }
  uint64_t u64(uint64_t at) const { return number(at, 8); }
  uint64_t size() const { return bytes_.size(); }

 private:
  std::string_view bytes_;
};

constexpr uint32_t kLocalHeader = 0x04034b50, kDirectoryEntry = 0x02014b50, kEnd = 0x06054b50, kEnd64 = 0x06064b50,
                   kEnd64Locator = 0x07064b50;
constexpr uint64_t kEndSize = 22, kLongestComment = 0xffff, kLocatorSize = 20;
constexpr uint32_t kInZip64 = 0xffffffff;  // a field too small for its number, which the zip64 extra field holds

uint64_t find_end(const Bytes& file) {
  for (uint64_t back = kEndSize; back <= file.size() && back <= kEndSize + kLongestComment; ++back) {
    if (file.u32(file.size() - back) == kEnd) return file.size() - back;
  }
  throw Malformed("it is no zip archive, or truncated");
}

struct Directory {
  uint64_t offset, entries;
};

Directory find_directory(const Bytes& file) {
  const uint64_t end = find_end(file);
  if (end >= kLocatorSize && file.u32(end - kLocatorSize) == kEnd64Locator) {
    const uint64_t end64 = file.u64(end - kLocatorSize + 8);
    if (file.u32(end64) != kEnd64) throw Malformed("its zip64 directory is damaged");
    return {file.u64(end64 + 48), file.u64(end64 + 32)};
  }
  return {file.u32(end + 16), file.u16(end + 10)};
}

// The numbers of the zip64 extra field (id 1) replace, in this order, those of size and offset that are kInZip64.
void read_zip64(const Bytes& file, uint64_t at, uint64_t extra_size, uint64_t& raw_size, uint64_t& stored_size,
                uint64_t& offset) {
  const uint64_t extra_end = at + extra_size;
  while (at + 4 <= extra_end) {
    uint64_t field = at + 4;
    if (file.u16(at) == 1) {
      for (uint64_t* value : {&raw_size, &stored_size, &offset}) {
        if (*value != kInZip64) continue;
        *value = file.u64(field);
        field += 8;
      }
      return;
    }
    at = field + file.u16(at + 2);
  }
}

}  // namespace

ZipReader::ZipReader(std::string_view archive) {
  const Bytes file(archive);
  auto [at, entries] = find_directory(file);
  for (; entries > 0; --entries) {
    if (file.u32(at) != kDirectoryEntry) throw Malformed("its zip directory is damaged");
    const uint32_t method = file.u16(at + 10), crc = file.u32(at + 16);
    uint64_t stored_size = file.u32(at + 20), raw_size = file.u32(at + 24), offset = file.u32(at + 42);
    const uint32_t name_size = file.u16(at + 28), extra_size = file.u16(at + 30), comment_size = file.u16(at + 32);
    const std::string name(file.slice(at + 46, name_size));
    read_zip64(file, at + 46 + name_size, extra_size, raw_size, stored_size, offset);
    at += 46 + uint64_t{name_size} + extra_size + comment_size;

    if (file.u32(offset) != kLocalHeader) throw Malformed(fmt::format("the header of its member {} is damaged", name));
    const uint64_t data = offset + 30 + file.u16(offset + 26) + file.u16(offset + 28);
    const std::size_t slash = name.find('/');
    if (slash == std::string::npos) throw Malformed(fmt::format("its member {} lies in no folder", name));
    if (members_.empty()) top_folder_ = name.substr(0, slash);
    members_[name.substr(slash + 1)] = {file.slice(data, stored_size), crc, method != 0 || stored_size != raw_size};
  }
}

std::string_view ZipReader::member(const std::string& name) const {
  const auto found = members_.find(name);
  if (found == members_.end()) throw Malformed(fmt::format("its member {} is missing", name));
  if (found->second.compressed) throw Malformed(fmt::format("its member {} is compressed", name));
  // PyTorch leaves the checksum 0 when told to save without (torch.serialization.set_crc32_options(False)).
  if (found->second.crc != 0 && crc32(found->second.bytes) != found->second.crc) {
    throw Malformed(fmt::format("its member {} is damaged (the checksum differs)", name));
  }
  return found->second.bytes;
}

}  // namespace lockstep
