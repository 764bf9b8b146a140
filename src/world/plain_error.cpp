#include "world/plain_error.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <new>
#include <string>
#include <string_view>
#include <system_error>

namespace lockstep {
namespace {

// One line without PyTorch's addresses, and not too long.
std::string one_line(std::string_view text) {
  std::string line;
  for (const char c : text.substr(0, text.find("\nException raised from"))) {
    const char plain = c == '\n' || c == '\t' || c == '\r' ? ' ' : c;
    if (plain != ' ' || (!line.empty() && line.back() != ' ')) line += plain;
  }
  while (!line.empty() && (line.back() == ' ' || line.back() == '.')) line.pop_back();
  constexpr std::size_t kMost = 400;
  return line.size() > kMost ? line.substr(0, kMost) + " …" : line;
}

Error out_of_memory(const std::string& what) {
  return Error(ExitCode::usage, fmt::format("the host has not enough memory{}{}", what.empty() ? "" : ": ", what),
               "lower train.global_batch or eval.batch, raise train.accumulate, or use fewer ranks on a host; see "
               "`free -h` and the limits (`ulimit -v`, with Slurm --mem)");
}

// c10's allocator of host memory (c10/core/impl/alloc_cpu.cpp) throws a plain c10::Error.
bool of_host_memory(const c10::Error& error, const std::string& text) {
  if (text.find("DefaultCPUAllocator") != std::string::npos) return true;
  return dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr && text.find("CUDA") == std::string::npos;
}

}  // namespace

Error plain_error(const std::exception& error) {
  if (const auto* known = dynamic_cast<const Error*>(&error)) return *known;
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return out_of_memory("");
  if (const auto* torch = dynamic_cast<const c10::Error*>(&error)) {
    const std::string text = one_line(torch->what_without_backtrace());
    return of_host_memory(*torch, text) ? out_of_memory(text) : Error(ExitCode::internal, text);
  }
  if (const auto* system = dynamic_cast<const std::system_error*>(&error)) {
    if (system->code() == std::errc::not_enough_memory) return out_of_memory(one_line(system->what()));
    if (system->code() == std::errc::resource_unavailable_try_again) {
      return Error(ExitCode::io, fmt::format("the system refuses another thread: {}", one_line(system->what())),
                   "raise the limit on processes and threads (see `ulimit -u`; with Slurm or in a container its own)");
    }
    return Error(ExitCode::io, one_line(system->what()), "check this path, its permissions and the disk");
  }
  return Error(ExitCode::internal, error.what());
}

}  // namespace lockstep
