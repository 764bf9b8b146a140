// What every benchmark says about the job that it ran in.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace lockstep {

class World;

struct BenchJob {
  int ranks = 1;
  int hosts = 1;
  std::vector<std::string> host_of_rank;
  std::string device;    ///< of rank 0: "cpu", or the GPU's name
  std::string date;      ///< when it started on rank 0: "2031-05-04T03:02:01Z"
  std::string versions;  ///< as lockstep::versions()
};

/// Collective; the same on all ranks.
BenchJob bench_job(World& world);

/// Lines that begin with "# ": `title`, ranks and hosts, versions, date.
std::string job_header(const BenchJob& job, const std::string& title);

/// {"ranks", "hosts", "ranks_of_host": {"NAME": RANKS, …}, "date", "versions": […]}
nlohmann::ordered_json job_json(const BenchJob& job);

}  // namespace lockstep
