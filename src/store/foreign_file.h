// What a file is that is not the one asked for, told by how it begins.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace lockstep {

struct ForeignFile {
  std::string what;  ///< "it is …"
  std::string hint;  ///< what makes a file of it that can be read
};

/// What `bytes`, the content of `path`, are if they are neither a .pth archive nor a safetensors file; nothing for what
/// is not known here. It is for messages only.
std::optional<ForeignFile> foreign_file(const std::string& path, std::string_view bytes);

/// "a .pth file of weights" or "a safetensors file of weights"; empty for anything else, a checkpoint too.
std::string kind_of_weights(std::string_view bytes);

}  // namespace lockstep
