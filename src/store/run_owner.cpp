#include "store/run_owner.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/stat.h>
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

// Of the folder that has this name now; {0, 0} if there is none.
std::pair<uint64_t, uint64_t> number_of(const std::string& folder) {
  struct stat status = {};
  if (::stat(folder.c_str(), &status) != 0) return {0, 0};
  return {status.st_dev, status.st_ino};
}

}  // namespace

RunOwner::RunOwner(const std::string& folder, int64_t restart) : path_(folder + "/owner") {
  const nlohmann::ordered_json token = {
      {"job", job_name()},    {"restart", restart},
      {"nonce", nonce()},     {"host", host_name()},
      {"pid", int{getpid()}}, {"time", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)))}};
  token_ = token.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  write_durably(path_, token_);
  folder_number_ = number_of(folder);
}

void RunOwner::check() const {
  std::string now;
  try {
    now = read_file(path_);
  } catch (const Error& error) {
    if (error.code() != ExitCode::missing) throw;
  }
  if (now == token_) return;
  if (now.empty()) {
    const std::string folder = path_.substr(0, path_.rfind('/'));
    if (number_of(folder) != folder_number_) {
      throw Error(
          ExitCode::launch,
          fmt::format("the run folder {} is gone: it was removed or renamed while the run wrote into it", folder),
          "if it was renamed, go on with --resume and its new name; if it was removed, begin anew");
    }
    throw Error(ExitCode::launch,
                fmt::format("{} is gone, so this process writes no more: the run folder is being emptied", path_),
                fmt::format("if its checkpoints are still there, go on with --resume '{}'", folder));
  }
  const char* const hint = "let the other one go on; to train twice, give each its own --out";
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
