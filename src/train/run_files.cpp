#include "train/run_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

#include "lockstep/error.h"
#include "lockstep/settings.h"
#include "store/checkpoint_folder.h"
#include "store/files.h"
#include "store/zip_reader.h"
#include "train/run_state.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFirstLine =
    "# The files of this run, by name: Lockstep replaces and removes these and no others here.\n";
constexpr std::string_view kEvents = "events.out.tfevents.";
const std::vector<std::string> kAlways = {"config.toml", "metrics.jsonl", "owner", "final.pth"};

bool there(const std::string& path) {
  std::error_code error;
  return fs::exists(fs::symlink_status(path, error));
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  if (error && error != std::errc::no_such_file_or_directory && error != std::errc::not_a_directory) {
    throw file_error("read the folder", folder, error.value());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string text_of(const std::string& path) {
  try {
    return read_file(path);
  } catch (const Error& error) {
    if (error.code() == ExitCode::missing) return "";
    throw;
  }
}

bool is_number(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

// NAME of NAME.tmp-PID-N, empty for any other.
std::string before_temporary(const std::string& name) {
  return is_temporary(name) ? name.substr(0, name.rfind(".tmp-")) : "";
}

// Of the folder of checkpoints: those, `latest`, damaged ones put aside, and what a killed writer left of them.
bool is_checkpoint_file(const std::string& name) {
  const std::string whole = is_temporary(name) ? before_temporary(name) : name;
  return whole == "latest" || step_of(whole) ||
         (name.ends_with(".damaged") && step_of(name.substr(0, name.size() - std::string_view(".damaged").size())));
}

// A folder in the place of a file is not the run's.
void remove(const std::string& path) {
  std::error_code error;
  if (fs::is_directory(fs::symlink_status(path, error))) return;
  error.clear();
  fs::remove(path, error);
  if (error && error != std::errc::not_a_directory) throw file_error("remove", path, error.value());
}

// Whether the process that the token names made this event file: its name is events.out.tfevents.TIME.HOST.PID.N.
bool wrote(const nlohmann::json& owner, std::string_view name) {
  if (!owner.is_object() || !name.starts_with(kEvents)) return false;
  name.remove_prefix(kEvents.size());
  const std::string middle = fmt::format(".{}.{}.", owner.value("host", ""), owner.value("pid", 0));
  const size_t at = name.find(middle);
  return at != std::string_view::npos && is_number(name.substr(0, at)) && is_number(name.substr(at + middle.size()));
}

}  // namespace

int64_t epoch_of(const std::string& name, const std::string& model) {
  const fs::path path(name);
  const std::string stem = path.stem().string();
  const size_t bar = stem.rfind('_');
  if (path.extension() != ".pth" || bar == std::string::npos) return -1;
  if (!model.empty() && stem.substr(0, bar) != model) return -1;
  int64_t epoch = -1;
  const auto [end, error] = std::from_chars(stem.data() + bar + 1, stem.data() + stem.size(), epoch);
  return error == std::errc() && end == stem.data() + stem.size() ? epoch : -1;
}

RunFiles::RunFiles(const std::string& folder) : folder_(folder) {
  const std::string text = text_of(path());
  // A list of somebody else's is not taken for one.
  has_list_ = text.starts_with(kFirstLine);
  if (has_list_) {
    read_list(text);
  } else {
    recognize();
  }
}

void RunFiles::read_list(const std::string& text) {
  for (size_t at = kFirstLine.size(); at < text.size();) {
    const size_t end = text.find('\n', at);
    if (end == std::string::npos) break;  // torn: what it was to name was not written
    const std::string name = text.substr(at, end - at);
    at = end + 1;
    // Whatever became of the list, it names nothing outside its folder.
    const bool plain = !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos;
    if (plain || name == kCheckpoints) names_.insert(name);
  }
}

void RunFiles::recognize() {
  const std::string config = text_of(folder_ + "/config.toml");
  const auto owner = nlohmann::json::parse(text_of(folder_ + "/owner"), nullptr, /*allow_exceptions=*/false);
  std::optional<Settings> settings;
  if (config.starts_with("# Every setting of this run")) {
    try {
      settings = load_recipe(folder_ + "/config.toml");
    } catch (const Error&) {  // of another version
      settings.emplace();
    }
  }
  const std::vector<std::string> checkpoints = checkpoint_files(folder_ + "/checkpoints");
  const bool owned = owner.is_object() && owner.contains("nonce");
  if (!settings && !owned && checkpoints.empty()) return;
  std::set<std::string> events;
  for (const std::string& checkpoint : checkpoints) {
    try {
      const RunState state =
          RunState::from_json(read_checkpoint(read_file(folder_ + "/checkpoints/" + checkpoint)).state);
      for (const auto& [name, bytes] : state.logs.events) events.insert(name);
      break;  // the newest knows all before it
    } catch (const Malformed&) {
    } catch (const Error&) {
    }
  }
  for (const std::string& name : names_in(folder_)) {
    const bool always = std::find(kAlways.begin(), kAlways.end(), name) != kAlways.end();
    const bool flight = name.starts_with("flight-rank-") && name.ends_with(".json");
    const int64_t epoch = epoch_of(name, settings ? settings->model_name : "sjnet");
    const bool weights = epoch >= 0 && (!settings || epoch < settings->train_epochs);
    if (always || flight || weights || events.contains(name) || wrote(owner, name)) names_.insert(name);
  }
  if (!checkpoints.empty()) names_.insert(kCheckpoints);
}

bool RunFiles::any() const {
  return std::any_of(names_.begin(), names_.end(), [&](const std::string& name) {
    return name == kCheckpoints ? !checkpoint_files(folder_ + "/" + name).empty() : there(folder_ + "/" + name);
  });
}

void RunFiles::add_those_of(const Settings& settings, int ranks) {
  const auto refuse = [&](const std::string& name) {
    throw Error(ExitCode::usage, fmt::format("{}/{} is not a file of this run, which would replace it", folder_, name),
                "move it away, or choose another --out");
  };
  std::vector<std::string> flights;
  for (int rank = 0; rank < ranks; ++rank) flights.push_back(fmt::format("flight-rank-{}.json", rank));
  for (const std::string& name : names_in(folder_)) {
    if (has(name)) continue;
    const int64_t epoch = epoch_of(name, settings.model_name);
    const bool always = std::find(kAlways.begin(), kAlways.end(), name) != kAlways.end();
    const bool flight = std::find(flights.begin(), flights.end(), name) != flights.end();
    if (always || flight || name == kList || (epoch >= 0 && epoch < settings.train_epochs)) {
      if (name != kList || !has_list_) refuse(name);
    }
  }
  if (!has(kCheckpoints)) {
    for (const std::string& name : names_in(folder_ + "/checkpoints")) {
      if (is_checkpoint_file(name)) refuse(kCheckpoints + name);
    }
  }
  add(kAlways);
  add({kCheckpoints});
  add(flights);
}

void RunFiles::write() {
  std::string text(kFirstLine);
  for (const std::string& name : names_) text += name + "\n";
  write_durably(path(), text);
  has_list_ = true;
}

void RunFiles::claim(const std::string& name) {
  if (has(name)) return;
  if (there(folder_ + "/" + name)) {
    throw Error(ExitCode::io,
                fmt::format("cannot write {}/{}: a file that is not this run's has this name", folder_, name),
                "move it away");
  }
  if (!there(path())) write();
  AppendFile list(path(), AppendFile::Mode::append);
  list.cut_torn_line();
  list.append(name + "\n");
  sync_file(path());
  names_.insert(name);
}

void RunFiles::remove_all(const std::set<std::string>& kept) const {
  remove_leftovers();
  for (const std::string& name : names_) {
    const std::string path = folder_ + "/" + name;
    if (kept.contains(name)) continue;
    if (name != kCheckpoints) {
      remove(path);
      continue;
    }
    for (const std::string& file : names_in(path)) {
      if (is_checkpoint_file(file)) remove(path + file);
    }
    const std::string checkpoints = folder_ + "/checkpoints";
    std::error_code error;  // others' files are in it
    if (!fs::is_symlink(fs::symlink_status(checkpoints, error))) fs::remove(checkpoints, error);
  }
}

void RunFiles::remove_leftovers() const {
  for (const std::string& name : names_in(folder_)) {
    const std::string whole = before_temporary(name);
    if (whole == kList || (!whole.empty() && has(whole))) remove(folder_ + "/" + name);
  }
  if (!has(kCheckpoints)) return;
  for (const std::string& name : names_in(folder_ + "/checkpoints")) {
    if (is_temporary(name) && is_checkpoint_file(name)) remove(folder_ + "/" + kCheckpoints + name);
  }
}

std::vector<std::string> RunFiles::others() const {
  std::vector<std::string> names;
  for (const std::string& name : names_in(folder_)) {
    if (name == kList || has(name)) continue;
    if (name != "checkpoints") {
      names.push_back(name);
      continue;
    }
    for (const std::string& file : names_in(folder_ + "/checkpoints")) {
      if (!has(kCheckpoints) || !is_checkpoint_file(file)) names.push_back(kCheckpoints + file);
    }
  }
  return names;
}

}  // namespace lockstep
