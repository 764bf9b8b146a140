#include "bench/job.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "lockstep/version.h"
#include "lockstep/world.h"
#include "log/text.h"

namespace lockstep {
namespace {

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32] = {};
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// "NVIDIA H100 80GB HBM3" of "cuda:1 (NVIDIA H100 80GB HBM3)".
std::string device_name(const World& world) {
  const std::string text = world.device_text();
  const size_t open = text.find('(');
  return open == std::string::npos ? text : text.substr(open + 1, text.size() - open - 2);
}

}  // namespace

BenchJob bench_job(World& world) {
  const auto dates = world.all_gather(utc_now());
  return {.ranks = world.size(),
          .hosts = world.hosts(),
          .host_of_rank = world.all_gather(world.host()),
          .device = world.all_gather(device_name(world))[0],
          .date = dates[0],
          .versions = versions()};
}

std::string job_header(const BenchJob& job, const std::string& title) {
  std::string text = fmt::format("# {}\n", title);
  text += fmt::format("# {} rank{} on {} host{} ({}), {}\n# ", job.ranks, job.ranks == 1 ? "" : "s", job.hosts,
                      job.hosts == 1 ? "" : "s", hosts_text(job.host_of_rank), job.device);
  for (const std::string& line : lines_of(job.versions)) text += line + " · ";
  return text + job.date + "\n";
}

nlohmann::ordered_json job_json(const BenchJob& job) {
  std::map<std::string, int> ranks_of;
  for (const std::string& host : job.host_of_rank) ++ranks_of[host];
  return {{"ranks", job.ranks},   {"hosts", job.hosts}, {"ranks_of_host", ranks_of},
          {"device", job.device}, {"date", job.date},   {"versions", lines_of(job.versions)}};
}

}  // namespace lockstep
