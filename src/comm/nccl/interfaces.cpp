#include "comm/nccl/interfaces.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>

#include "lockstep/error.h"

namespace lockstep {
namespace {

constexpr int kMappedBits = 96;  // of ::ffff:0:0, before the bits of an IPv4 address

bool is_v4(const Address& address) {
  constexpr std::array<uint8_t, 12> kMapped = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  return std::equal(kMapped.begin(), kMapped.end(), address.bytes.begin());
}

int bits_of(const uint8_t* mask, size_t bytes) {
  int bits = 0;
  for (size_t i = 0; i < bytes; ++i) bits += std::popcount(mask[i]);
  return bits;
}

bool same_network(const Address& a, const Address& b) {
  if (a.prefix != b.prefix) return false;
  for (int bit = 0; bit < a.prefix; bit += 8) {
    const auto at = static_cast<size_t>(bit / 8);
    const int left = std::min(8, a.prefix - bit);
    const auto mask = static_cast<uint8_t>(0xff << (8 - left));
    if ((a.bytes[at] & mask) != (b.bytes[at] & mask)) return false;
  }
  return true;
}

// Bridges, tunnels and cables to containers: their addresses often are the same on every host.
bool made_by_the_machine(const std::string& name) {
  constexpr std::array<std::string_view, 8> kBegin = {"docker", "br-",     "virbr", "veth",
                                                      "cni",    "flannel", "cali",  "tun"};
  return std::any_of(kBegin.begin(), kBegin.end(), [&](std::string_view begin) { return name.starts_with(begin); });
}

}  // namespace

std::vector<Address> own_addresses() {
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) return {};
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> all(first, &freeifaddrs);
  std::vector<Address> found;
  for (const ifaddrs* at = first; at != nullptr; at = at->ifa_next) {
    if (at->ifa_addr == nullptr || at->ifa_netmask == nullptr || (at->ifa_flags & IFF_UP) == 0) continue;
    Address address{.interface = at->ifa_name, .ip = {}, .loopback = (at->ifa_flags & IFF_LOOPBACK) != 0};
    char text[INET6_ADDRSTRLEN] = {};
    if (at->ifa_addr->sa_family == AF_INET) {
      const auto* here = reinterpret_cast<const sockaddr_in*>(at->ifa_addr);
      const auto* mask = reinterpret_cast<const sockaddr_in*>(at->ifa_netmask);
      address.bytes[10] = address.bytes[11] = 0xff;
      std::memcpy(address.bytes.data() + 12, &here->sin_addr, 4);
      address.prefix = kMappedBits + bits_of(reinterpret_cast<const uint8_t*>(&mask->sin_addr), 4);
      inet_ntop(AF_INET, &here->sin_addr, text, sizeof text);
    } else if (at->ifa_addr->sa_family == AF_INET6) {
      const auto* here = reinterpret_cast<const sockaddr_in6*>(at->ifa_addr);
      const auto* mask = reinterpret_cast<const sockaddr_in6*>(at->ifa_netmask);
      if (IN6_IS_ADDR_LINKLOCAL(&here->sin6_addr)) continue;
      std::memcpy(address.bytes.data(), &here->sin6_addr, 16);
      address.prefix = bits_of(reinterpret_cast<const uint8_t*>(&mask->sin6_addr), 16);
      inet_ntop(AF_INET6, &here->sin6_addr, text, sizeof text);
    } else {
      continue;
    }
    address.ip = text;
    found.push_back(std::move(address));
  }
  return found;
}

std::string describe(const std::vector<Address>& addresses) {
  std::string text;
  for (const Address& address : addresses) {
    text += fmt::format("{}{} {}/{}", text.empty() ? "" : ", ", address.interface, address.ip,
                        address.prefix - (is_v4(address) ? kMappedBits : 0));
  }
  return text.empty() ? "none" : text;
}

std::vector<Address> addresses_to_try(const std::vector<std::vector<Address>>& hosts, const std::string& interface) {
  const std::vector<Address>& mine = hosts.at(0);
  std::vector<Address> left;
  for (const Address& address : mine) {
    const bool fits = interface.empty() ? address.loopback == (hosts.size() == 1) : address.interface == interface;
    if (fits) left.push_back(address);
  }
  if (left.empty()) {
    throw Error(
        ExitCode::launch,
        interface.empty()
            ? fmt::format("rank 0's host has no address for the other ranks; its addresses: {}", describe(mine))
            : fmt::format("rank 0's host has no address on interface {}; its addresses: {}", interface, describe(mine)),
        interface.empty() ? "bring a network interface up (ip link)" : "give --interface one of these names");
  }
  const auto shared = [&](const Address& address) {
    return std::all_of(hosts.begin() + 1, hosts.end(), [&](const std::vector<Address>& host) {
      return std::any_of(host.begin(), host.end(), [&](const Address& other) { return same_network(address, other); });
    });
  };
  const auto rank = [&](const Address& address) {
    return (made_by_the_machine(address.interface) ? 4 : 0) + (shared(address) ? 0 : 2) + (is_v4(address) ? 0 : 1);
  };
  std::stable_sort(left.begin(), left.end(), [&](const Address& a, const Address& b) { return rank(a) < rank(b); });
  return left;
}

std::string to_text(const std::vector<Address>& addresses) {
  nlohmann::json all = nlohmann::json::array();
  for (const Address& one : addresses) all.push_back({one.interface, one.ip, one.bytes, one.prefix, one.loopback});
  return all.dump();
}

std::vector<Address> addresses_from_text(const std::string& text) {
  std::vector<Address> addresses;
  for (const auto& one : nlohmann::json::parse(text)) {
    addresses.push_back({.interface = one[0], .ip = one[1], .bytes = one[2], .prefix = one[3], .loopback = one[4]});
  }
  return addresses;
}

}  // namespace lockstep
