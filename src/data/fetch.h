// Getting CIFAR-10 from the network.
#pragma once

#include <string>

namespace lockstep {

// As https://www.cs.toronto.edu/~kriz/cifar.html publishes them.
inline constexpr const char* kCifar10Url = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz";
inline constexpr const char* kCifar10Md5 = "c32a1d4ab5d03f1284b67883e8d87530";

struct FetchOptions {
  std::string out = "data";
  std::string url = kCifar10Url;
  std::string md5 = kCifar10Md5;
};

/// Downloads the archive by curl or wget, verifies its MD5, unpacks it by tar and checks it, all in a temporary folder
/// in `out`, then renames cifar-10-batches-bin/ into place; a complete real set that is there already is left alone.
/// When it throws, nothing is left behind. Throws Error: missing when the archive cannot be had, damaged when its
/// digest differs, usage when something else is in the way, io when the disk is full or a tool fails.
void fetch_cifar10(const FetchOptions& options);

}  // namespace lockstep
