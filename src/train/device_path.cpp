#include "train/device_path.h"

#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/nn/module.h>

namespace lockstep {

void set_up_device(const Settings& settings) {
  at::Context& context = at::globalContext();
  context.setAllowTF32CuBLAS(settings.train_tf32);
  context.setAllowTF32CuDNN(settings.train_tf32);
  context.setDeterministicCuDNN(true);
  context.setBenchmarkCuDNN(false);
}

void move_net(torch::nn::Module& net, c10::Device device, const std::string& memory_format) {
  net.to(device);
  if (memory_format != "channels_last") return;
  for (at::Tensor& parameter : net.parameters()) {
    if (parameter.dim() == 4) parameter.set_data(parameter.data().contiguous(at::MemoryFormat::ChannelsLast));
  }
}

OwnStream::OwnStream(c10::Device device) {
  if (!device.is_cuda()) return;
  const c10::impl::VirtualGuardImpl guard(device.type());
  const c10::Stream own = guard.getStreamFromGlobalPool(device);
  // What the default stream was given until now comes first.
  guard.synchronizeStream(guard.getStream(device));
  before_ = guard.exchangeStream(own);
}

OwnStream::~OwnStream() {
  if (!before_) return;
  // No wait for what it was given: after an error that may never end.
  c10::impl::VirtualGuardImpl(before_->device_type()).exchangeStream(*before_);
}

void StepsAhead::given() {
  constexpr size_t kMost = 4;
  if (!device_.is_cuda()) return;
  ends_.emplace_back(device_.type());
  ends_.back().record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
  if (ends_.size() <= kMost) return;
  ends_.front().synchronize();
  ends_.pop_front();
}

Autocast::Autocast(c10::Device device, const std::string& precision) : type_(device.type()), on_(precision == "bf16") {
  if (!on_) return;
  before_ = at::autocast::is_autocast_enabled(type_);
  at::autocast::set_autocast_dtype(type_, at::kBFloat16);
  at::autocast::set_autocast_enabled(type_, true);
  at::autocast::increment_nesting();
}

Autocast::~Autocast() {
  if (!on_) return;
  // Weights were cast once for all passes under this guard; they change with the next step.
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(type_, before_);
}

std::vector<double> read_back(const std::vector<at::Tensor>& scalars) {
  const c10::NoGradGuard no_grad;
  std::vector<at::Tensor> doubles;
  for (const at::Tensor& scalar : scalars) doubles.push_back(scalar.detach().to(at::kDouble));
  const at::Tensor all = at::stack(doubles);
  const bool gpu = all.is_cuda();
  at::Tensor host = at::empty(all.sizes(), at::TensorOptions(at::kDouble).pinned_memory(gpu));
  host.copy_(all, /*non_blocking=*/gpu);
  if (gpu) {
    c10::Event done(all.device().type());
    done.record(c10::impl::VirtualGuardImpl(all.device().type()).getStream(all.device()));
    done.synchronize();
  }
  const auto* values = host.const_data_ptr<double>();
  return {values, values + host.numel()};
}

void give_back_memory(c10::Device device) {
  if (device.is_cuda()) c10::getDeviceAllocator(device.type())->emptyCache();
}

int64_t peak_memory(c10::Device device) {
  if (!device.is_cuda()) return 0;
  return c10::getDeviceAllocator(device.type())->getDeviceStats(device.index()).reserved_bytes[0].peak;
}

}  // namespace lockstep
