#include "lockstep/model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>

#include "lockstep/error.h"
#include "model/nets.h"

namespace lockstep {
namespace {

const std::map<std::string, std::shared_ptr<Net> (*)()>& registry() {
  static const std::map<std::string, std::shared_ptr<Net> (*)()> nets = {{"airbench94", &make_airbench94},
                                                                         {"sjnet", &make_sjnet}};
  return nets;
}

}  // namespace

std::shared_ptr<Net> make_net(const std::string& name) {
  const auto found = registry().find(name);
  if (found == registry().end()) {
    throw Error(ExitCode::usage, fmt::format("no network is called '{}'", name),
                fmt::format("choose one of: {}", fmt::join(net_names(), ", ")));
  }
  return found->second();
}

std::vector<std::string> net_names() {
  std::vector<std::string> names;
  for (const auto& [name, make] : registry()) names.push_back(name);
  return names;
}

}  // namespace lockstep
