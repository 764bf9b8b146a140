// Which files of a folder are a run's own.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

namespace lockstep {

struct Settings;

/// The list of a run's files, by name: RUN/files.txt, one name a line. The run replaces and removes what the list names
/// and touches no other file. A folder that a version without the list wrote gets one from what its config.toml, owner
/// and checkpoints say; a file of which they do not tell that it is the run's is not in it.
///
/// Local; rank 0 only. The list is durable before a file of weights that it names first comes into being; at a start it
/// follows the first files at once.
class RunFiles {
 public:
  static constexpr const char* kList = "files.txt";
  static constexpr const char* kCheckpoints = "checkpoints/";  ///< stands for what runs write into that folder

  /// Those of the folder as it is. Throws Error (io).
  explicit RunFiles(const std::string& folder);

  /// Whether there is a run: one of its files is there.
  bool any() const;
  bool has(const std::string& name) const { return names_.contains(name); }
  const std::set<std::string>& names() const { return names_; }
  bool has_list() const { return has_list_; }

  /// Adds names in memory.
  void add(const std::vector<std::string>& names) { names_.insert(names.begin(), names.end()); }
  void drop(const std::string& name) { names_.erase(name); }
  /// Adds every name that a run with these settings may write from its start on; MODEL_EPOCH.pth come later. Throws
  /// Error (usage) naming a file that is there and is not the run's, but would be replaced by it.
  void add_those_of(const Settings& settings, int ranks);
  /// Writes the list, durably. Throws Error (io).
  void write();

  /// Before a file of this name is written: adds it to the list, durably. Throws Error (io) if that fails, or if there
  /// is such a file and it is not the run's.
  void claim(const std::string& name);

  /// Removes all that the list names except `kept`, and not the list. Throws Error (io).
  void remove_all(const std::set<std::string>& kept) const;
  /// Removes what a killed writer left of these files. Throws Error (io).
  void remove_leftovers() const;
  /// The names of all else in the folder, in order.
  std::vector<std::string> others() const;

  /// The list's path.
  std::string path() const { return folder_ + "/" + kList; }

 private:
  void read_list(const std::string& text);
  void recognize();

  std::string folder_;
  std::set<std::string> names_;
  bool has_list_ = false;
};

/// The epoch of MODEL_EPOCH.pth, -1 for any other name. `model` empty: of any model.
int64_t epoch_of(const std::string& name, const std::string& model = "");

}  // namespace lockstep
