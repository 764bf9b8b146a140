#include "comm/explain.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <string>
#include <string_view>

#include "world/plain_error.h"

namespace lockstep {
namespace {

// The words by which a text is known, and what it then is. The first row that fits counts.
struct Meaning {
  std::array<std::string_view, 2> words;  // any of them, in lower case; "" is none
  ExitCode code;
  const char* what;
  const char* hint;
};

constexpr const char* kLost = "a rank, its GPU or the network between them was lost; start again from the last weights";
constexpr const char* kRunWithDebug = "run again with NCCL_DEBUG=INFO, which says more";

// Names of NCCL's results: nccl.h. PyTorch puts them and NCCL's sentence into its texts.
const Meaning kMeanings[] = {
    {{"watchdog caught collective operation timeout", "collective operation timeout"},
     ExitCode::rank_lost,
     "a collective on the GPUs waited longer than the deadline (watch.deadline_s)",
     "a rank or its host was lost or stands still: look at its last messages, then start again from the last weights"},
    {{"ncclremoteerror", "remote process exited"},
     ExitCode::rank_lost,
     "NCCL lost the connection to another rank",
     kLost},
    {{"duplicate gpu detected", ""},
     ExitCode::launch,
     "two ranks use one GPU, which NCCL refuses",
     "give each rank a GPU of its own"},
    {{"ncclinvalidusage", ""}, ExitCode::launch, "NCCL was used wrongly", kRunWithDebug},
    {{"ncclinvalidargument", ""}, ExitCode::internal, "NCCL refused an argument", kRunWithDebug},
    {{"ncclsystemerror", "unhandled system error"},
     ExitCode::rank_lost,
     "a system call of NCCL failed",
     "run again with NCCL_DEBUG=INFO, which says which; often another rank died, or --interface must name the network"},
    {{"ncclunhandledcudaerror", "unhandled cuda error"},
     ExitCode::rank_lost,
     "a CUDA call of NCCL failed",
     kRunWithDebug},
    {{"ncclinternalerror", ""}, ExitCode::internal, "NCCL failed inside", kRunWithDebug},
    {{"ncclinprogress", "nccl timeout"},
     ExitCode::rank_lost,
     "NCCL was not ready within the deadline (watch.deadline_s)",
     "a rank never came, or --interface must name the network on which the hosts reach each other"},
    {{"nccl communicator was aborted", "nccl communicator encountered error"},
     ExitCode::rank_lost,
     "NCCL gave up",
     kLost},
    {{"setting up nccl communicator", ""},
     ExitCode::rank_lost,
     "the ranks did not find each other to start NCCL",
     "rank 0 may have died; else --interface must name the network on which the hosts reach each other"},
    {{"out of memory", ""},
     ExitCode::usage,
     "the GPU has not enough memory",
     "lower train.global_batch, raise train.accumulate, use more GPUs, or see what else uses this one (nvidia-smi)"},
    {{"driver version is insufficient", "insufficient driver"},
     ExitCode::launch,
     "the NVIDIA driver is too old for this LibTorch",
     "update the driver, or use --device cpu"},
    {{"no kernel image is available", ""},
     ExitCode::launch,
     "this LibTorch has no code for this kind of GPU",
     "use another GPU or another LibTorch, or --device cpu"},
    {{"uncorrectable ecc error", "hardware stack error"},
     ExitCode::rank_lost,
     "the GPU reports damage",
     "have this GPU looked at (dmesg names it as Xid), and start again without it from the last weights"},
    {{"illegal memory access", "device-side assert"},
     ExitCode::internal,
     "code on the GPU failed",
     "run again with CUDA_LAUNCH_BLOCKING=1, so that the place is the right one, and report it"},
    {{"all cuda-capable devices are busy", "device is busy"},
     ExitCode::launch,
     "the GPU is used by another process that allows no second",
     "see nvidia-smi: compute mode and processes"},
    {{"nccl error", "nccl watchdog"}, ExitCode::rank_lost, "NCCL failed", kRunWithDebug},
    {{"cuda error", ""},
     ExitCode::internal,
     "a CUDA call failed",
     "run again; if it stays, run with CUDA_LAUNCH_BLOCKING=1 and report it with `lockstep --version`"},
};

}  // namespace

Error explain(const c10::Error& error) {
  const Error plain = plain_error(error);
  const std::string text = plain.what();
  std::string lower = text;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  const auto says = [&](std::string_view word) { return !word.empty() && lower.find(word) != std::string::npos; };
  const bool of_memory = dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr;
  const bool of_device = dynamic_cast<const c10::AcceleratorError*>(&error) != nullptr;
  const bool of_ranks = dynamic_cast<const c10::DistError*>(&error) != nullptr;
  if (plain.code() != ExitCode::internal) return plain;  // the host's memory
  // Texts of the CPU's part may hold such words by chance.
  if (of_memory || of_device || of_ranks || says("nccl") || says("cuda")) {
    for (const Meaning& meaning : kMeanings) {
      if (says(meaning.words[0]) || says(meaning.words[1])) {
        return Error(meaning.code, fmt::format("{}: {}", meaning.what, text), meaning.hint);
      }
    }
  }
  // The store and its sockets.
  if (of_ranks) {
    return Error(
        ExitCode::rank_lost, "the ranks could not reach each other: " + text,
        "a rank or its host was lost, or --interface must name the network on which the hosts reach each other");
  }
  return plain;
}

Error current_error() {
  try {
    throw;
  } catch (const Error& error) {
    return error;
  } catch (const c10::Error& error) {
    return explain(error);
  } catch (const std::exception& error) {
    return plain_error(error);
  }
}

}  // namespace lockstep
