#include "store/foreign_file.h"

#include <fmt/format.h>

#include <filesystem>

#include "store/checkpoint.h"
#include "store/safetensors.h"
#include "store/zip_reader.h"

namespace lockstep {
namespace {

using namespace std::string_view_literals;

// How torch.save begins a file without a zip archive: a pickle of the number 0x1950a86a20f9469cfc6c (Python's
// torch/serialization.py, MAGIC_NUMBER).
constexpr std::string_view kOldTorchSave = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."sv;

// Where a converted file goes: beside the first, and never over it.
std::string beside(const std::string& path) {
  const std::filesystem::path whole(path);
  return (whole.parent_path() / (whole.stem().string() + ".new.pth")).string();
}

bool is_pickle(std::string_view bytes) {
  return bytes.size() > 2 && bytes[0] == '\x80' && bytes[1] >= 2 && bytes[1] <= 5;
}

}  // namespace

std::optional<ForeignFile> foreign_file(const std::string& path, std::string_view bytes) {
  if (bytes.starts_with(kOldTorchSave)) {
    return ForeignFile{
        "it is in the old format of torch.save (PyTorch before 1.6, or "
        "_use_new_zipfile_serialization=False)",
        fmt::format("this converts it: python3 -c \"import torch; torch.save(torch.load('{}', "
                    "map_location='cpu', weights_only=True), '{}')\"",
                    path, beside(path))};
  }
  if (is_pickle(bytes)) {
    return ForeignFile{"it is a Python pickle that torch.save did not write",
                       "in Python, load it as it was saved, then `torch.save(dict_of_tensors, path)`"};
  }
  if (bytes.starts_with("\x1f\x8b"sv)) {
    return ForeignFile{"it is compressed (gzip)",
                       fmt::format("unpack it: `tar -xzf '{0}'` if it is a .tar.gz, else `gunzip -k '{0}'`", path)};
  }
  if (bytes.starts_with("version https://git-lfs"sv)) {
    return ForeignFile{"it is a pointer of Git LFS in place of the file itself",
                       "`git lfs pull` in its repository gets the file"};
  }
  if (bytes.starts_with("\x89HDF\r\n"sv)) {
    return ForeignFile{"it is an HDF5 file, such as Keras writes",
                       "in Python, make tensors of its arrays, then `torch.save(dict_of_tensors, path)`"};
  }
  if (bytes.starts_with("<!DOCTYPE"sv) || bytes.starts_with("<html"sv)) {
    return ForeignFile{"it is a web page", "download the file itself: the address led to a page about it"};
  }
  return std::nullopt;
}

std::string kind_of_weights(std::string_view bytes) {
  const bool safetensors = bytes.size() > 8 && bytes[8] == '{';
  if (!safetensors) {
    return bytes.starts_with("PK") || bytes.starts_with(kOldTorchSave) ? "a .pth file of weights" : "";
  }
  try {
    return is_checkpoint(view_safetensors(bytes).metadata) ? "" : "a safetensors file of weights";
  } catch (const Malformed&) {
    return "";
  }
}

}  // namespace lockstep
