#include "store/pieces.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

namespace lockstep {
namespace {

// Bytes per call: Linux takes at most about 2 GiB at once.
constexpr std::size_t kMostAtOnce = std::size_t{1} << 30;
constexpr std::size_t kBlock = std::size_t{1} << 20;

bool set_direct(int descriptor, bool on) {
  const int flags = ::fcntl(descriptor, F_GETFL);
  return flags >= 0 && ::fcntl(descriptor, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
}

// As write(2) and writev(2) give it, but never 0 and never interrupted.
template <typename Call>
ssize_t some(Call call) {
  for (;;) {
    const ssize_t written = call();
    if (written < 0 && errno == EINTR) continue;
    if (written == 0) errno = EIO;
    return written == 0 ? -1 : written;
  }
}

}  // namespace

Pieces::Pieces(std::vector<std::string_view> pieces) : left_(std::move(pieces)) {
  std::erase_if(left_, [](std::string_view piece) { return piece.empty(); });
  for (const std::string_view piece : left_) size_ += piece.size();
  direct_ = size_ >= kDirectFrom;
}

bool Pieces::write(int descriptor, std::size_t count) {
  return write_direct(descriptor, count) && write_from_places(descriptor, count);
}

// Takes what it has written off `count`. Leaves to the other way what cannot go this one: an end that fills no unit of
// the disk, all bytes where the file system does not know of it, and the rest after a write that ended early, which has
// come upon a limit that the next one shall tell.
bool Pieces::write_direct(int descriptor, std::size_t& count) {
  if (!direct_ || written_ % kAlignment != 0 || count < kAlignment) return true;
  if (!block_) block_.reset(static_cast<char*>(std::aligned_alloc(kAlignment, kBlock)));
  direct_ = block_ && set_direct(descriptor, true);
  while (direct_ && count >= kAlignment) {
    const std::string_view part = next_aligned(count);
    const ssize_t written = some([&] { return ::write(descriptor, part.data(), part.size()); });
    if (written < 0 && errno != EINVAL) return false;
    const auto done = static_cast<std::size_t>(std::max<ssize_t>(written, 0));
    drop(done);
    count -= done;
    direct_ = done == part.size();
  }
  return set_direct(descriptor, false);
}

// From where they are, if they are there as the disk wants them, else from the block: up to its end, or to where what
// follows is so again.
std::string_view Pieces::next_aligned(std::size_t most) {
  const auto on_boundary = [](std::string_view piece) {
    return reinterpret_cast<std::uintptr_t>(piece.data()) % kAlignment == 0 && piece.size() >= kAlignment;
  };
  const std::string_view first = left_[first_];
  if (on_boundary(first)) return first.substr(0, std::min({first.size(), most, kMostAtOnce}) / kAlignment * kAlignment);
  std::size_t part = std::min(most, kBlock) / kAlignment * kAlignment;
  std::size_t end = 0;
  for (std::size_t i = first_; i + 1 < left_.size() && end < part; ++i) {
    end += left_[i].size();
    if (end < part && end % kAlignment == 0 && on_boundary(left_[i + 1])) part = end;
  }
  copy(block_.get(), part);
  return {block_.get(), part};
}

bool Pieces::write_from_places(int descriptor, std::size_t count) {
  while (count > 0) {
    std::array<struct iovec, 256> places;
    std::size_t used = 0, bytes = 0;
    const std::size_t most = std::min(count, kMostAtOnce);
    for (std::size_t i = first_; bytes < most && used < places.size(); ++i, ++used) {
      const std::size_t part = std::min(left_[i].size(), most - bytes);
      places[used] = {const_cast<char*>(left_[i].data()), part};
      bytes += part;
    }
    const ssize_t written = some([&] { return ::writev(descriptor, places.data(), static_cast<int>(used)); });
    if (written < 0) return false;
    drop(static_cast<std::size_t>(written));
    count -= static_cast<std::size_t>(written);
  }
  return true;
}

void Pieces::copy(char* to, std::size_t count) {
  for (std::size_t i = first_; count > 0; ++i) {
    const std::size_t part = std::min(left_[i].size(), count);
    std::memcpy(to, left_[i].data(), part);
    to += part;
    count -= part;
  }
}

void Pieces::drop(std::size_t count) {
  written_ += count;
  while (first_ < left_.size() && count >= left_[first_].size()) count -= left_[first_++].size();
  if (first_ < left_.size()) left_[first_].remove_prefix(count);
}

}  // namespace lockstep
