// Reads zip archives whose members are stored without compression, as PyTorch writes them.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>

namespace lockstep {

/// Why bytes are not what they should be: a sentence without the file's name.
class Malformed : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The members of an archive in memory, which outlives it. Format: PKWARE's APPNOTE.TXT 6.3, sections 4.3 to 4.5 (zip64
/// included). Every offset is checked before it is used.
class ZipReader {
 public:
  /// Throws Malformed.
  explicit ZipReader(std::string_view archive);

  /// The name of the one top folder that all members lie in, as in "archive/data.pkl".
  const std::string& top_folder() const { return top_folder_; }
  bool has(const std::string& name) const { return members_.contains(name); }
  /// The bytes of the member top_folder()/name, their CRC-32 checked. Throws Malformed.
  std::string_view member(const std::string& name) const;

 private:
  struct Member {
    std::string_view bytes;
    uint32_t crc;
    bool compressed;
  };
  std::map<std::string, Member> members_;  // without the top folder
  std::string top_folder_;
};

}  // namespace lockstep
