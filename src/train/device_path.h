// What a run does to the device it computes on: precision, layout, waiting, reading back.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/settings.h"

namespace torch::nn {
class Module;
}

namespace lockstep {

/// Local: sets what LibTorch keeps for the whole process: whether float32 may be rounded to TF32 (train.tf32), and
/// cuDNN's algorithms to those that give the same bits every time.
void set_up_device(const Settings& settings);

/// Local: moves parameters and buffers to `device`, in the layout of train.memory_format.
void move_net(torch::nn::Module& net, c10::Device device, const std::string& memory_format);

/// As long as it lives, the calling thread's work for a GPU goes to a stream of its own, as work that is recorded must:
/// the default stream cannot be recorded. A module's DistributedDataParallel must be made under it, too. Nothing on the
/// CPU.
class OwnStream {
 public:
  explicit OwnStream(c10::Device device);
  ~OwnStream();
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;

 private:
  std::optional<c10::Stream> before_;
};

/// Keeps the host from running away from a GPU that one order makes busy for a whole step: what waits for the GPU later
/// would wait for all steps in between, and pass a deadline though all is well. Nothing on the CPU.
class StepsAhead {
 public:
  explicit StepsAhead(c10::Device device) : device_(device) {}
  /// Local: a step was given to the current stream. Waits until all but the last few are done.
  void given();

 private:
  c10::Device device_;
  std::deque<c10::Event> ends_;
};

/// As long as it lives, the calling thread's operations on `device` take and give bfloat16 where that is safe
/// (autocast), when `precision` is bf16; otherwise nothing.
class Autocast {
 public:
  Autocast(c10::Device device, const std::string& precision);
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  c10::DeviceType type_;
  bool on_;
  bool before_ = false;
};

/// Local: scalars (any dtype) on one device, as doubles on the host: one copy into pinned memory, and one wait for it.
std::vector<double> read_back(const std::vector<at::Tensor>& scalars);

/// Local: gives memory of the device that LibTorch keeps for later and that nobody uses back to it; may wait for it.
void give_back_memory(c10::Device device);

/// Local: the most bytes that LibTorch has taken of this GPU's memory so far; 0 on the CPU.
int64_t peak_memory(c10::Device device);

}  // namespace lockstep
