#include "data/other_forms.h"

#include <fmt/format.h>

#include <filesystem>
#include <initializer_list>
#include <system_error>

namespace lockstep {
namespace {

namespace fs = std::filesystem;

// The first of these names that is in the folder or in one of its sub-folders of the published sets.
fs::path find_in(const fs::path& dir, std::initializer_list<const char*> names) {
  std::error_code ignored;
  for (const char* name : names) {
    if (fs::exists(dir / name, ignored)) return dir / name;
  }
  return {};
}

std::string fetch(const fs::path& folder) { return fmt::format("`lockstep data fetch --out '{}'`", folder.string()); }

OtherForm archive(const fs::path& path) {
  const fs::path folder = path.parent_path().empty() ? fs::path(".") : path.parent_path();
  if (path.filename().string().find("python") != std::string::npos) {
    return {fmt::format("{} is the Python version (pickles), and the binary version is needed", path.string()),
            fetch(folder) + " gets it"};
  }
  return {
      fmt::format("{} is an archive that is not unpacked", path.string()),
      fmt::format("`tar -xzf '{}' -C '{}'`, then --data-dir '{}'", path.string(), folder.string(), folder.string())};
}

}  // namespace

std::optional<OtherForm> look_for_other_forms(const std::string& dir) {
  const fs::path path(dir);
  std::error_code ignored;
  if (fs::is_regular_file(path, ignored)) {
    const std::string name = path.filename().string();
    if (name.ends_with(".tar.gz") || name.ends_with(".tgz") || name.ends_with(".tar")) return archive(path);
    return OtherForm{"it is a file", "give --data-dir the folder of the .bin files"};
  }
  if (const fs::path binary = find_in(path, {"cifar-10-binary.tar.gz"}); !binary.empty()) return archive(binary);
  if (const fs::path pickles = find_in(path, {"cifar-10-batches-py", "data_batch_1", "batches.meta"});
      !pickles.empty()) {
    const fs::path folder = path.filename() == "cifar-10-batches-py" ? path.parent_path() : path;
    return OtherForm{
        fmt::format("{} is of the Python version (pickles), and the binary version is needed", pickles.string()),
        fetch(folder.empty() ? "." : folder) + " gets it"};
  }
  if (const fs::path python = find_in(path, {"cifar-10-python.tar.gz"}); !python.empty()) return archive(python);
  if (const fs::path hundred =
          find_in(path, {"cifar-100-binary", "cifar-100-python", "cifar-100-binary.tar.gz", "cifar-100-python.tar.gz"});
      !hundred.empty()) {
    return OtherForm{fmt::format("{} is CIFAR-100, which has other classes", hundred.string()),
                     fetch(path) + " gets CIFAR-10"};
  }
  return std::nullopt;
}

}  // namespace lockstep
