#include "store/run_owner.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <ctime>
#include <nlohmann/json.hpp>
#include <random>

#include "lockstep/error.h"
#include "store/files.h"

namespace lockstep {
namespace {

std::string host_name() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}

std::string job_name() {
  const char* job = std::getenv("SLURM_JOB_ID");
  return job == nullptr ? "" : job;
}

std::string nonce() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}", random(), random());
}

}  // namespace

RunOwner::RunOwner(const std::string& folder, int64_t restart) : path_(folder + "/owner") {
  const nlohmann::ordered_json token = {
      {"job", job_name()},    {"restart", restart},
      {"nonce", nonce()},     {"host", host_name()},
      {"pid", int{getpid()}}, {"time", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)))}};
  token_ = token.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  write_durably(path_, token_);
}

void RunOwner::check() const {
  std::string now;
  try {
    now = read_file(path_);
  } catch (const Error& error) {
    if (error.code() != ExitCode::missing) throw;
  }
  if (now == token_) return;
  const char* const hint = "let the other one go on; to train twice, give each its own --out";
  if (now.empty()) {
    throw Error(ExitCode::launch, fmt::format("{} is gone, so this process writes no more into the run", path_), hint);
  }
  const auto other = nlohmann::json::parse(now, nullptr, /*allow_exceptions=*/false);
  const auto text = [&](const char* key) {
    return other.is_object() && other.contains(key)
               ? other[key].is_string() ? other[key].get<std::string>() : other[key].dump()
               : "?";
  };
  throw Error(ExitCode::launch,
              fmt::format("the run was taken over by process {} on {} at {}, so this one writes no more", text("pid"),
                          text("host"), text("time")),
              hint);
}

}  // namespace lockstep
