// Digests of whole files, made once in a process.
#pragma once

#include <sys/stat.h>

#include <optional>
#include <string>
#include <vector>

#include "lockstep/cifar10.h"

namespace lockstep {

/// "device:inode:size:modified:changed", times in nanoseconds. Who writes into a file or replaces it gives it another
/// one; the time of the last change cannot be set back as the time of modification can. Clocks of file systems tick in
/// milliseconds, some in seconds: a file that was changed less than two seconds ago may change again without a sign, so
/// each call gives it an identity of its own.
std::string file_identity(const struct stat& status);

/// The digest of the file with this identity, if it was made or told here before. Thread-safe, like know_digest.
std::optional<std::string> known_digest(const std::string& identity);

/// Remembers a digest, for instance one that another rank of this host has made.
void know_digest(const std::string& identity, const std::string& digest);

/// The XXH3 of each file's bytes, as `xxhsum -H2 FILE` prints it. Files whose digest is not known are read, several at
/// once with `threads` threads.
std::vector<std::string> file_digests(const std::vector<Cifar10::Source>& files, int threads);

}  // namespace lockstep
