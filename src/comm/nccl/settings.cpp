#include "comm/nccl/settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace lockstep {

std::vector<std::pair<std::string, std::string>> nccl_environment(double deadline_s, const std::string& interface) {
  std::vector<std::pair<std::string, std::string>> all = {
      // An error ends the process, with communicators left as they are: to abort them may hang while a peer is gone.
      {"TORCH_NCCL_ASYNC_ERROR_HANDLING", "3"},
      {"TORCH_NCCL_RETHROW_CUDA_ERRORS", "1"},
      {"TORCH_NCCL_TEARDOWN_ON_TIMEOUT", "1"},
      // Who fell behind, and what each rank did last.
      {"TORCH_NCCL_DESYNC_DEBUG", "1"},
      {"TORCH_FR_BUFFER_SIZE", "2000"},
      {"TORCH_FR_DUMP_ON_TIMEOUT", "1"},
      {"TORCH_FR_WAIT_TIMEOUT_DUMP_MILSEC", "1000"},  // the watchdog waits four times this long before it throws
      {"TORCH_NCCL_ENABLE_MONITORING", "1"},
      {"TORCH_NCCL_LOG_CPP_STACK_ON_UNCLEAN_SHUTDOWN", "0"},
      {"TORCH_NCCL_SHOW_EAGER_INIT_P2P_SERIALIZATION_WARNING", "0"},  // our messages have one order anyway
  };
  if (deadline_s > 0) {
    const auto seconds = static_cast<long long>(std::ceil(deadline_s));
    all.emplace_back("TORCH_NCCL_NONBLOCKING_TIMEOUT", fmt::format("{}", seconds));
    // The watchdog itself may hang in a call of CUDA. It must not be ended before it has given its verdict.
    all.emplace_back("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", fmt::format("{}", std::max(60LL, 2 * seconds)));
  }
  if (!interface.empty()) all.emplace_back("NCCL_SOCKET_IFNAME", "=" + interface);
  return all;
}

void apply_nccl_environment(const std::vector<std::pair<std::string, std::string>>& environment) {
  for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), /*overwrite=*/0);
}

}  // namespace lockstep
