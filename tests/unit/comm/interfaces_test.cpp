#include "comm/nccl/interfaces.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "../expect_error.h"

namespace lockstep {
namespace {

using ::testing::ElementsAre;

Address v4(const std::string& interface, const std::string& ip, int prefix = 24) {
  Address address{.interface = interface, .ip = ip, .prefix = 96 + prefix, .loopback = interface == "lo"};
  address.bytes[10] = address.bytes[11] = 0xff;
  EXPECT_EQ(inet_pton(AF_INET, ip.c_str(), address.bytes.data() + 12), 1);
  return address;
}

Address v6(const std::string& interface, const std::string& ip, int prefix = 64) {
  Address address{.interface = interface, .ip = ip, .prefix = prefix, .loopback = interface == "lo"};
  EXPECT_EQ(inet_pton(AF_INET6, ip.c_str(), address.bytes.data()), 1);
  return address;
}

std::vector<std::string> tried(const std::vector<std::vector<Address>>& hosts, const std::string& interface = "") {
  std::vector<std::string> ips;
  for (const Address& address : addresses_to_try(hosts, interface)) ips.push_back(address.ip);
  return ips;
}

const std::vector<Address> kFirst = {v4("lo", "127.0.0.1", 8), v4("docker0", "172.17.0.1", 16),
                                     v4("eth0", "192.168.1.5"), v6("eth0", "fd00::5"), v4("ib0", "10.0.0.5", 16)};

TEST(Interfaces, OneHostMeetsOnItsLoopback) { EXPECT_THAT(tried({kFirst}), ElementsAre("127.0.0.1")); }

TEST(Interfaces, ANetworkThatAllHostsShareComesFirst) {
  const std::vector<Address> second = {v4("lo", "127.0.0.1", 8), v4("docker0", "172.17.0.1", 16),
                                       v4("ib1", "10.0.7.6", 16)};
  EXPECT_THAT(tried({kFirst, second}), ElementsAre("10.0.0.5", "192.168.1.5", "fd00::5", "172.17.0.1"));
}

TEST(Interfaces, AMaskDecidesWhatANetworkIs) {
  const std::vector<Address> near = {v4("eth0", "192.168.1.130", 25)};
  const std::vector<Address> far = {v4("eth0", "192.168.1.5", 25), v4("eth1", "192.168.1.200", 25)};
  EXPECT_THAT(tried({far, near}), ElementsAre("192.168.1.200", "192.168.1.5"));
}

TEST(Interfaces, AnInterfaceThatIsNamedIsTheOnlyOne) {
  const std::vector<Address> second = {v4("ib0", "10.0.7.6", 16)};
  EXPECT_THAT(tried({kFirst, second}, "eth0"), ElementsAre("192.168.1.5", "fd00::5"));
  EXPECT_THAT(tried({kFirst}, "lo"), ElementsAre("127.0.0.1"));
}

TEST(Interfaces, AnInterfaceThatIsNotThereIsRefusedNamingThoseThatAre) {
  test::expect_error(ExitCode::launch, {"eth7", "ib0 10.0.0.5/16", "eth0 fd00::5/64"}, [] {
    addresses_to_try({kFirst, kFirst}, "eth7");
  });
  test::expect_error(ExitCode::launch, {"no address for the other ranks", "lo 127.0.0.1/8"}, [] {
    addresses_to_try({{v4("lo", "127.0.0.1", 8)}, {}}, "");
  });
  test::expect_error(ExitCode::launch, {"addresses: none"}, [] { addresses_to_try({{}}, ""); });
}

TEST(Interfaces, AddressesSurviveTheWayToOthers) {
  EXPECT_EQ(addresses_from_text(to_text(kFirst)), kFirst);
  EXPECT_EQ(addresses_from_text(to_text({})), std::vector<Address>());
}

TEST(Interfaces, ThisMachineHasALoopback) {
  const auto mine = own_addresses();
  EXPECT_TRUE(std::any_of(mine.begin(), mine.end(), [](const Address& address) {
    return address.loopback && (address.ip == "127.0.0.1" || address.ip == "::1") && address.prefix > 0;
  })) << describe(mine);
}

}  // namespace
}  // namespace lockstep
