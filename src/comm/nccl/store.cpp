#include "comm/nccl/store.h"

#include <fmt/format.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <utility>
#include <vector>

#include "comm/explain.h"
#include "comm/nccl/interfaces.h"
#include "lockstep/world.h"

namespace lockstep {
namespace {

// How long a rank tries to reach one address. Hosts on one network answer in milliseconds; one that drops packets
// never.
constexpr int kConnectMs = 3000;
constexpr int kMostAddresses = 8;

class Socket {
 public:
  explicit Socket(int descriptor = -1) : descriptor_(descriptor) {}
  Socket(Socket&& other) noexcept : descriptor_(other.release()) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~Socket() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  int get() const { return descriptor_; }
  int release() { return std::exchange(descriptor_, -1); }

 private:
  int descriptor_;
};

struct Endpoint {
  sockaddr_storage address = {};
  socklen_t length = 0;
};

Endpoint endpoint(const std::string& ip, int port) {
  addrinfo hints = {};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(ip.c_str(), std::to_string(port).c_str(), &hints, &found) != 0 || found == nullptr) return {};
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  Endpoint made;
  std::memcpy(&made.address, found->ai_addr, found->ai_addrlen);
  made.length = found->ai_addrlen;
  return made;
}

// A socket that listens on this address only, and its port; 0 and why not in `problem`.
std::pair<Socket, int> listen_on(const std::string& ip, std::string& problem) {
  Endpoint at = endpoint(ip, 0);
  Socket socket(::socket(at.address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  auto* address = reinterpret_cast<sockaddr*>(&at.address);
  if (socket.get() < 0 || ::bind(socket.get(), address, at.length) != 0 || ::listen(socket.get(), SOMAXCONN) != 0 ||
      ::getsockname(socket.get(), address, &at.length) != 0) {
    problem = std::strerror(errno);
    return {Socket(), 0};
  }
  const auto port = at.address.ss_family == AF_INET ? reinterpret_cast<const sockaddr_in*>(&at.address)->sin_port
                                                    : reinterpret_cast<const sockaddr_in6*>(&at.address)->sin6_port;
  return {std::move(socket), ntohs(port)};
}

// Empty when a connection comes about; else why not.
std::string reach(const std::string& ip, int port) {
  const Endpoint at = endpoint(ip, port);
  const Socket socket(::socket(at.address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (socket.get() < 0) return std::strerror(errno);
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&at.address), at.length) == 0) return "";
  if (errno != EINPROGRESS) return std::strerror(errno);
  pollfd wait = {.fd = socket.get(), .events = POLLOUT, .revents = 0};
  int ready = 0;
  do {
    ready = ::poll(&wait, 1, kConnectMs);
  } while (ready < 0 && errno == EINTR);
  if (ready <= 0) return fmt::format("no answer in {} s", kConnectMs / 1000);
  int error = 0;
  socklen_t length = sizeof error;
  ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &length);
  return error == 0 ? "" : std::strerror(error);
}

// The addresses of each host once, rank 0's first.
std::vector<std::vector<Address>> addresses_of_hosts(World& world) {
  std::vector<std::vector<Address>> hosts;
  const auto texts = world.all_gather(world.local_rank() == 0 ? to_text(own_addresses()) : "");
  for (const std::string& text : texts) {
    if (!text.empty()) hosts.push_back(addresses_from_text(text));
  }
  return hosts;
}

}  // namespace

StartedStore start_store(World& world, const std::string& interface, double deadline_s) {
  std::vector<Address> candidates;
  const auto hosts = addresses_of_hosts(world);
  world.together([&] { candidates = addresses_to_try(hosts, interface); });

  Socket listening;
  std::optional<Address> chosen;
  int port = 0;
  std::string failures;
  for (size_t i = 0; i < candidates.size() && i < kMostAddresses && !chosen; ++i) {
    const Address& candidate = candidates[i];
    std::string problem;
    Socket mine;
    if (world.rank() == 0) std::tie(mine, port) = listen_on(candidate.ip, problem);
    world.broadcast(&port, sizeof port);
    if (world.rank() != 0 && port != 0) problem = reach(candidate.ip, port);
    const auto problems = world.all_gather(problem);
    std::string refused;
    for (size_t rank = 0; rank < problems.size(); ++rank) {
      if (!problems[rank].empty() && refused.empty()) refused = fmt::format("rank {}: {}", rank, problems[rank]);
    }
    if (refused.empty()) {
      chosen = candidate;
      listening = std::move(mine);
    } else {
      failures += fmt::format("{}{} {} ({})", failures.empty() ? "" : ", ", candidate.interface, candidate.ip, refused);
    }
  }
  if (!chosen) {
    throw AgreedError(Error(ExitCode::launch,
                            fmt::format("no address of rank 0's host ({}) is reached by all ranks: {}",
                                        world.all_gather(world.host())[0], failures),
                            "open the network between the hosts for TCP, or name the right one with --interface"),
                      0);
  }

  // 0 is for ever; c10d adds timeouts to times, so not the largest number there is.
  const double wait_s = deadline_s > 0 ? deadline_s : 365.0 * 24 * 3600;
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(port);
  options.isServer = world.rank() == 0;
  options.waitWorkers = false;
  options.timeout = std::chrono::milliseconds(static_cast<int64_t>(wait_s * 1000));
  StartedStore started{.store = {}, .address = fmt::format("{} {} port {}", chosen->interface, chosen->ip, port)};
  const auto open = [&] {
    try {
      started.store = c10::make_intrusive<c10d::TCPStore>(chosen->ip, options);
    } catch (const c10::Error& error) {
      throw explain(error);
    }
  };
  world.together([&] {
    if (world.rank() != 0) return;
    options.masterListenFd = listening.release();  // the store's from here on
    open();
  });
  world.together([&] {
    if (world.rank() != 0) open();
  });
  return started;
}

}  // namespace lockstep
