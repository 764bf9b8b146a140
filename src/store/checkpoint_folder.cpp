#include "store/checkpoint_folder.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <system_error>

#include "lockstep/error.h"
#include "store/files.h"

namespace lockstep {
namespace {

constexpr std::string_view kBeforeStep = "step-", kAfterStep = ".safetensors";

// The names of all that lies in the folder; none when it does not exist.
std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  if (error && error != std::errc::no_such_file_or_directory)
    throw file_error("read the folder", folder, error.value());
  return names;
}

std::string within(const std::string& folder, const std::string& name) { return folder + "/" + name; }

// Tries all, then throws the first error.
void remove_all(const std::string& folder, const std::vector<std::string>& names) {
  std::optional<Error> first;
  for (const std::string& name : names) {
    const std::string path = within(folder, name);
    if (::unlink(path.c_str()) != 0 && errno != ENOENT && !first) first = file_error("delete", path, errno);
  }
  if (first) throw *first;
}

}  // namespace

std::string checkpoint_name(int64_t step) { return fmt::format("{}{:07}{}", kBeforeStep, step, kAfterStep); }

std::optional<int64_t> step_of(std::string_view name) {
  if (!name.starts_with(kBeforeStep)) return std::nullopt;
  int64_t step = 0;
  const auto parsed = std::from_chars(name.data() + kBeforeStep.size(), name.data() + name.size(), step);
  if (parsed.ec != std::errc() || step < 0 || checkpoint_name(step) != name) return std::nullopt;
  return step;
}

std::vector<std::string> checkpoint_files(const std::string& folder) {
  std::vector<std::string> names = names_in(folder);
  std::erase_if(names, [](const std::string& name) { return !step_of(name); });
  std::sort(names.begin(), names.end(),
            [](const std::string& a, const std::string& b) { return *step_of(a) > *step_of(b); });
  return names;
}

std::optional<Found> newest_good(const std::string& folder) {
  std::vector<std::string> passed_over;
  for (const std::string& name : checkpoint_files(folder)) {
    const std::string path = within(folder, name);
    try {
      return Found{path, read_checkpoint(read_file(path)), std::move(passed_over)};
    } catch (const Malformed& problem) {
      passed_over.push_back(fmt::format("{}: {}", name, problem.what()));
    } catch (const Error& problem) {
      passed_over.push_back(fmt::format("{}: {}", name, problem.what()));
    }
  }
  if (passed_over.empty()) return std::nullopt;
  throw Error(ExitCode::damaged,
              fmt::format("no checkpoint in {} can be used ({})", folder, fmt::join(passed_over, "; ")),
              "move these files away to start anew, or take the checkpoint of another run");
}

void name_latest(const std::string& folder, int64_t step) {
  write_durably(within(folder, "latest"), checkpoint_name(step) + "\n");
}

void prune(const std::string& folder, int64_t keep, const std::set<int64_t>& also_keep) {
  std::vector<std::string> names = checkpoint_files(folder);
  names.erase(names.begin(), names.begin() + std::clamp<int64_t>(keep, 0, std::ssize(names)));
  std::erase_if(names, [&](const std::string& name) { return also_keep.contains(*step_of(name)); });
  remove_all(folder, names);
}

void remove_leftovers(const std::string& folder) {
  std::vector<std::string> names = names_in(folder);
  std::erase_if(names, [](const std::string& name) { return !is_temporary(name); });
  remove_all(folder, names);
}

}  // namespace lockstep
