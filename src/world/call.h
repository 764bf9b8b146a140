// What a collective is, so that ranks can compare what each of them makes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/error.h"

namespace lockstep {

/// A collective as one rank makes it. Sent as it lies in memory: all ranks are one build.
struct Call {
  int64_t count = -1;  ///< elements; -1: may differ between ranks
  int64_t bytes = 0;
  int32_t root = -1;   ///< -1: none
  char kind[20] = {};  ///< "all-reduce"; empty: no collective
  char op[12] = {};    ///< "sum"
  char type[16] = {};  ///< "float32"; empty: bytes

  struct Options {
    const char* type = "";
    int64_t count = -1;
    int64_t bytes = 0;
    const char* op = "";
    int root = -1;
  };
  static Call of(const char* kind, const Options& options);
  static Call of(const char* kind) { return of(kind, Options{}); }

  bool is_collective() const { return kind[0] != '\0'; }
  bool is_end() const;  ///< of the job
  bool agrees_with(const Call& other) const;
};

/// The collective in which ranks that leave in order wait for the others.
constexpr const char* kEndOfJob = "end of the job";
/// Whether to stop, agreed on while ranks compute.
constexpr const char* kStopConsensus = "stop consensus";

/// "all-reduce 17 (sum of 10 float32, 40 bytes)"; `number` counts a rank's collectives from 1.
std::string to_text(const Call& call, uint64_t number);

/// What one rank says of a collective.
struct CallOfRank {
  std::string place;  ///< such as "rank 2 on host b"
  Call call;
  uint64_t number = 0;
  std::string doing = {};  ///< "backward of step 3"; empty: it does not say
  int64_t last_step = 0;   ///< the last one that it named; 0: none
};

/// The ranks make different collectives where each should make the same. MPI itself is well.
class Disagreement : public Error {
 public:
  explicit Disagreement(const std::vector<CallOfRank>& calls);
};

}  // namespace lockstep
