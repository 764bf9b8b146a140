#include "world/vote.h"

#include <utility>

#include "world/world_impl.h"

namespace lockstep {

void Vote::finish() {
  if (under_way_) world_.impl().comm_thread->wait(*under_way_);
  under_way_.reset();
}

int64_t Vote::cast(int64_t value) {
  int64_t result = 0;
  if (value_) {
    if (under_way_) world_.impl().comm_thread->wait(*under_way_);
    result = *value_;
  }
  value_ = std::make_shared<int64_t>(value);
  if (world_.size() == 1) return result;
  under_way_ = std::make_shared<RequestOperation>(
      "MPI_Iallreduce", sizeof(int64_t), [at = value_, comm = world_.impl().comm](MPI_Request* request) {
        return MPI_Iallreduce(MPI_IN_PLACE, at.get(), 1, MPI_INT64_T, MPI_MAX, comm, request);
      });
  world_.impl().comm_thread->submit(under_way_, CommThread::Mode::lazily);
  return result;
}

}  // namespace lockstep
