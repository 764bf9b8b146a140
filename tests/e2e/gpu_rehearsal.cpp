// What a job on GPUs decides and suffers, on ranks without any: made-up GPUs, and faults in the places where NCCL has
// them.
//   gpu_rehearsal choose SPEC      ranks see the GPUs of SPEC: "0 1/0 1" are GPUs 0 and 1 for both of two ranks, "-" is
//   none;
//                                  with a trailing "!" a slice of the GPU; prints rank 0's device
//   gpu_rehearsal store [IFACE]    starts the store, and every rank reads what the last one wrote; prints its address
//   gpu_rehearsal absent RANK      the same with a deadline of 2 s, and RANK does not come
//   gpu_rehearsal watchdog RANK    a thread of RANK throws what NCCL's watchdog throws, while all wait for each other
//   gpu_rehearsal still RANK       RANK stands still, while the others wait for their devices, with a deadline of 2 s
//   gpu_rehearsal unvoted RANK     the same, with a vote of the others under way
//   gpu_rehearsal stuck RANK       RANK stays longer in a call than its time limit, while the others wait
#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>
#include <thread>

#include "cli/report.h"
#include "comm/nccl/store.h"
#include "lockstep/world.h"
#include "world/gpus.h"
#include "world/last_words.h"
#include "world/vote.h"

namespace lockstep {
namespace {

VisibleGpus seen_by(int rank, const std::string& spec) {
  std::istringstream ranks(spec);
  std::string mine;
  for (int i = 0; i <= rank; ++i) std::getline(ranks, mine, '/');
  VisibleGpus sees;
  std::istringstream gpus(mine);
  for (std::string name; gpus >> name;) {
    if (name == "-") break;
    const bool slice = name.back() == '!';
    const int index = std::atoi(name.c_str());
    sees.gpus.push_back({.name = slice ? "Made-up GPU MIG 1g.10gb" : "Made-up GPU",
                         .uuid = slice ? fmt::format("MIG-{}-{}", index, rank) : fmt::format("GPU-{}", index),
                         .pci = fmt::format("0000:{:02x}:00.0", index),
                         .memory_bytes = int64_t{80} << 30});
  }
  if (sees.gpus.empty()) sees.problem = "no NVIDIA driver (libcuda.so.1)";
  return sees;
}

int rehearse(World& world, const std::string& what, const std::string& how) {
  const auto say = [&](const std::string& text) {
    if (world.rank() == 0) std::puts(text.c_str());
  };
  const int chosen = std::atoi(how.c_str());
  if (what == "choose") {
    give_gpus(world, DeviceWish::cuda, seen_by(world.rank(), how));
    say(world.device_text());
  } else if (what == "store" || what == "absent") {
    const bool absent = what == "absent";
    if (absent) world.set_deadline(2);
    if (absent && world.rank() == chosen) std::this_thread::sleep_for(std::chrono::seconds(60));
    const StartedStore started = start_store(world, absent ? "" : how, 20);
    if (world.rank() == world.size() - 1) started.store->set("word", std::vector<uint8_t>{42});
    if (started.store->get("word") != std::vector<uint8_t>{42}) return 1;
    world.barrier();
    say(started.address);
  } else if (what == "watchdog") {
    std::thread watchdog([&] {
      if (world.rank() != chosen) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      C10_THROW_ERROR(DistBackendError,
                      "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE) ran "
                      "for 5003 milliseconds before timing out.");
    });
    std::this_thread::sleep_for(std::chrono::seconds(60));
    watchdog.join();
  } else if (what == "still" || what == "unvoted") {
    world.doing("backward", 7);
    world.set_deadline(2);
    if (world.rank() == chosen) raise(SIGSTOP);
    Vote vote(world);
    if (what == "unvoted") {
      vote.cast(0);
      // A later phase, so that the vote's deadline and the roll call after it pass first, on a busy machine too.
      std::this_thread::sleep_for(std::chrono::milliseconds(1800));
      world.doing("optimizer", 7);
    }
    std::this_thread::sleep_for(std::chrono::seconds(60));
  } else if (what == "stuck") {
    if (world.rank() == chosen) {
      const TimeLimit limit(world, 0.5,
                            Error(ExitCode::rank_lost, "NCCL did not start on all ranks in time", "see why"));
      std::this_thread::sleep_for(std::chrono::seconds(60));
    }
    world.barrier();
  } else {
    return 64;
  }
  return 0;
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  lockstep::World world({.threads = 1});
  return lockstep::run_job(world,
                           [&] { return lockstep::rehearse(world, argc > 1 ? argv[1] : "", argc > 2 ? argv[2] : ""); });
}
