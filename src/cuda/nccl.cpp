#include "cuda/nccl.h"

#include <chrono>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

namespace lockstep {

c10::intrusive_ptr<c10d::ProcessGroupNCCL::Options> nccl_options(const NcclOptions& options) {
  auto made = c10d::ProcessGroupNCCL::Options::create(/*is_high_priority_stream=*/true);
  constexpr double kYear_s = 365.0 * 24 * 3600;
  made->timeout =
      std::chrono::milliseconds(static_cast<int64_t>((options.deadline_s > 0 ? options.deadline_s : kYear_s) * 1000));
  made->group_name = "lockstep";
  return made;
}

c10::intrusive_ptr<c10d::Backend> make_nccl(const c10::intrusive_ptr<c10d::Store>& store, const NcclOptions& options) {
  const c10::Device gpu(c10::kCUDA, static_cast<c10::DeviceIndex>(options.gpu));
  auto own = c10::make_intrusive<c10d::PrefixStore>("nccl", store);
  auto nccl =
      c10::make_intrusive<c10d::ProcessGroupNCCL>(std::move(own), options.rank, options.size, nccl_options(options));
  nccl->setBoundDeviceId(gpu);
  nccl->eagerConnectSingleDevice(gpu);
  return nccl;
}

}  // namespace lockstep
