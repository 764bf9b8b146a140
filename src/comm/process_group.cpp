// World::process_group lives here, not in the world room: world knows nothing of c10d.
#include <cstring>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "comm/group.h"
#include "comm/mpi/mpi_backend.h"
#include "comm/nccl/group.h"
#include "world/world_impl.h"

namespace lockstep {
namespace {

MpiBackend& mpi_backend(World& world) {
  return dynamic_cast<MpiBackend&>(*world.process_group()->getBackend(c10::DeviceType::CPU));
}

}  // namespace

void set_overlap(World& world, bool on) { mpi_backend(world).set_overlap(on); }

void set_sending(World& world, bool on) { mpi_backend(world).set_sending(on); }

bool overlap_pays(World& world) {
  if (world.size() == 1) return false;
  return world.hosts() > 1 || world.impl().spare_core();
}

void share_storage(World& world, const at::Tensor& tensor) {
  if (!tensor.is_cpu()) return;
  c10::StorageImpl* const storage = tensor.storage().unsafeGetStorageImpl();
  c10::DataPtr memory = mpi_backend(world).shared_memory(storage->nbytes());
  if (!memory) return;
  std::memcpy(memory.get(), storage->data(), storage->nbytes());
  storage->set_data_ptr_noswap(std::move(memory));
}

void finish_collectives(World& world) { mpi_backend(world).finish_collectives(); }

const c10::intrusive_ptr<c10d::ProcessGroup>& World::process_group() {
  using Group = c10::intrusive_ptr<c10d::ProcessGroup>;
  if (!impl_->process_group) {
    auto backend = c10::make_intrusive<MpiBackend>(impl_->comm, impl_->messages, impl_->rank, impl_->size,
                                                   *impl_->comm_thread, SharedMemory::make(*this));
    backend->set_overlap(overlap_pays(*this));
    auto group = c10::make_intrusive<c10d::ProcessGroup>(impl_->rank, impl_->size);
    group->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::CUSTOM, backend);
    group->setDefaultBackend(c10d::ProcessGroup::BackendType::CUSTOM);
    if (impl_->device.is_cuda()) {
      try {
        add_nccl(*this, *group);
      } catch (...) {
        new Group(group);  // its end would abort communicators, and wait for GPUs that may stand still
        throw;
      }
      impl_->before_end = [this] { end_nccl(*this, *process_group()); };
    }
    impl_->process_group = std::make_shared<Group>(std::move(group));
  }
  return *std::static_pointer_cast<Group>(impl_->process_group);
}

}  // namespace lockstep
