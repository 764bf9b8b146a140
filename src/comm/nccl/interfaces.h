// On which of rank 0's addresses the others look for it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace lockstep {

/// An address of this host. `bytes` is IPv4 as an IPv6 address (::ffff:a.b.c.d), so that both compare alike.
struct Address {
  std::string interface;  ///< "eth0"
  std::string ip;         ///< "10.0.0.3" or "fd00::3"
  std::array<uint8_t, 16> bytes = {};
  int prefix = 0;  ///< leading bits of `bytes` that name the network
  bool loopback = false;

  bool operator==(const Address&) const = default;
};

/// Local: the addresses of this host's interfaces that are up, IPv4 and IPv6, link-local ones left out, in the kernel's
/// order.
std::vector<Address> own_addresses();

/// "eth0 10.0.0.3/24, lo 127.0.0.1/8" (prefixes as people write them); "none".
std::string describe(const std::vector<Address>& addresses);

/// Addresses of rank 0 in the order in which they shall be tried. `hosts` are the addresses of all hosts, rank 0's
/// first. On one host: its loopback. Else what is no loopback: networks on which every host has an address first, names
/// of bridges and tunnels that a machine makes for itself last, IPv4 before IPv6. With `interface`, only that one's.
/// Throws Error (launch) naming what there is when nothing is left.
std::vector<Address> addresses_to_try(const std::vector<std::vector<Address>>& hosts, const std::string& interface);

/// For the way between ranks.
std::string to_text(const std::vector<Address>& addresses);
std::vector<Address> addresses_from_text(const std::string& text);

}  // namespace lockstep
