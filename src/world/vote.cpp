#include "world/vote.h"

#include <algorithm>
#include <utility>

#include "world/world_impl.h"

namespace lockstep {

void Vote::finish() {
  if (!under_way_) return;
  world_.impl().comm_thread->wait(*under_way_);
  value_ = *std::max_element(under_way_->values().begin(), under_way_->values().end());
  under_way_.reset();
}

int64_t Vote::cast(int64_t value) {
  finish();
  const int64_t result = std::exchange(value_, value);
  if (world_.size() == 1) return result;
  CommThread& thread = *world_.impl().comm_thread;
  under_way_ = std::make_shared<Collective>(thread, world_.impl().comm, Call::of(kStopConsensus), nullptr, value);
  thread.submit(under_way_, CommThread::Mode::lazily);
  return result;
}

}  // namespace lockstep
