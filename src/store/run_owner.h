// Who may write into a run's folder.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

namespace lockstep {

/// The newest process to take a run owns it. One that was cut off and comes back finds another's token in the folder
/// and must not write any more. The token is the file `owner`, a JSON object: job, restart, nonce, host, pid, time.
/// Thread-safe. Between check() and the write that follows lies a moment in which another may take the run; what is
/// written then is whole, and the new owner writes over it.
class RunOwner {
 public:
  /// Takes the run: writes the token durably. `restart` counts starts of one run. Throws Error (io).
  RunOwner(const std::string& folder, int64_t restart);

  /// Throws Error (launch) if this is not the owner any more: it says who has the run now, or that the run folder or
  /// the token is gone. A token that cannot be read throws Error (io).
  void check() const;

 private:
  std::string path_;
  std::string token_;
  std::pair<uint64_t, uint64_t> folder_number_;  // device and inode
};

}  // namespace lockstep
