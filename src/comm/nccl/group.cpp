#include "comm/nccl/group.h"

#include <ATen/ops/full.h>
#include <fmt/format.h>

#include <algorithm>

#include "comm/explain.h"
#include "comm/nccl/settings.h"
#include "comm/nccl/store.h"
#include "world/gpu_part.h"
#include "world/last_words.h"
#include "world/world_impl.h"

namespace lockstep {
namespace {

constexpr double kLongestStart_s = 300;  // without a deadline of the user's
constexpr double kLongestEnd_s = 30;

std::string host_of(World& world, int rank) { return world.all_gather(world.host())[static_cast<size_t>(rank)]; }

}  // namespace

void same_on_all_ranks(World& world, const std::string& about, const std::string& text, const std::string& hint) {
  const auto texts = world.all_gather(text);
  const auto odd = std::find_if(texts.begin(), texts.end(), [&](const auto& other) { return other != texts[0]; });
  if (odd == texts.end()) return;
  const auto rank = static_cast<int>(odd - texts.begin());
  throw AgreedError(Error(ExitCode::launch,
                          fmt::format("{} of rank {} on {} differ from rank 0's: {} and {}", about, rank,
                                      host_of(world, rank), *odd, texts[0]),
                          hint),
                    rank);
}

void check_sum(World& world, c10d::ProcessGroup& group, c10::Device device) {
  constexpr int64_t kCount = 1024;
  const int n = world.size();
  const float expected = static_cast<float>(n) * static_cast<float>(n + 1) / 2;
  // One collective on all ranks, whatever happens on one: the deadline or the time limit ends the others' wait.
  world.together([&] {
    try {
      std::vector<at::Tensor> tensors = {
          at::full({kCount}, world.rank() + 1, at::TensorOptions(at::kFloat).device(device))};
      group.allreduce(tensors)->wait();
      const at::Tensor sum = tensors[0].cpu();
      const auto* values = sum.const_data_ptr<float>();
      const auto wrong = std::count_if(values, values + kCount, [&](float value) { return value != expected; });
      if (wrong == 0) return;
      throw Error(
          ExitCode::internal,
          fmt::format("a test sum over all ranks on {} ({}) came out wrong in {} of {} elements: {} in place of {}",
                      world.host(), device.str(), wrong, kCount, values[0], expected),
          "do not train on this machine: see `lockstep bench comm`, and report it with `lockstep --version`");
    } catch (const c10::Error& error) {
      throw explain(error);
    }
  });
}

void add_nccl(World& world, c10d::ProcessGroup& group) {
  World::Impl& my = world.impl();
  const double deadline_s = my.chose_deadline ? my.comm_thread->deadline_s() : 0;
  std::string problem;
  const GpuPart* part = nullptr;
  world.together([&] {
    part = load_gpu_part(problem);
    if (part == nullptr) throw Error(ExitCode::launch, problem, "use --device cpu");
  });
  same_on_all_ranks(world, "the versions", part->versions(),
                    "install the same LibTorch, NCCL and NVIDIA driver on all hosts");

  const StartedStore started = start_store(world, my.interface, deadline_s);
  apply_nccl_environment(nccl_environment(deadline_s, my.interface));
  const TimeLimit limit(world, deadline_s > 0 ? deadline_s : kLongestStart_s,
                        Error(ExitCode::rank_lost, "NCCL did not start on all ranks in time",
                              "a rank or its GPU stands still, or --interface must name the network on which the hosts "
                              "reach each other; NCCL_DEBUG=INFO says more"));
  world.together([&] {
    try {
      const auto nccl = part->make_nccl(
          started.store, {.rank = my.rank, .size = my.size, .gpu = my.device.index(), .deadline_s = deadline_s});
      group.setBackend(c10::DeviceType::CUDA, c10d::ProcessGroup::BackendType::NCCL, nccl);
      nccl->setBoundDeviceId(my.device);  // setBackend gives it the group's, which has none
    } catch (const c10::Error& error) {
      throw explain(error);
    }
  });
  check_sum(world, group, my.device);
  my.meeting = started.address;
}

void end_nccl(World& world, c10d::ProcessGroup& group) try {
  const LastWords last_words(world, &current_error);
  // One rank may still write what was trained, for as long as it takes; the deadline of MPI bounds the wait for it.
  world.barrier();
  const TimeLimit limit(world, kLongestEnd_s,
                        Error(ExitCode::rank_lost, "NCCL did not come to its end; the run itself was over",
                              "a rank or its GPU was lost at the very end; what was saved is whole"));
  group.getBackend(c10::DeviceType::CUDA)->shutdown();
  world.barrier();  // rank 0's store serves the others' last words
} catch (...) {
  end_job(world, current_error());  // it comes from a destructor
}

}  // namespace lockstep
