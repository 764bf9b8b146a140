// Work for a GPU that is recorded once and started again as a whole (a CUDA graph): the host then gives one order where
// it gave hundreds.
#pragma once

#include <c10/core/Device.h>

#include <cstddef>
#include <functional>
#include <memory>

namespace lockstep {

class RecordedWork {
 public:
  RecordedWork() = default;
  virtual ~RecordedWork() = default;
  RecordedWork(const RecordedWork&) = delete;
  RecordedWork& operator=(const RecordedWork&) = delete;

  /// While it is recorded: a place in the work, whose time the device notes in each replay.
  virtual void mark() = 0;
  /// Starts the work on the calling thread's current stream and does not wait for it. What it reads lies where it lay
  /// when it was recorded, and so do its results.
  virtual void replay() = 0;
  /// Milliseconds between the i-th mark (from 0) and the next in the last replay, which must be over.
  virtual double ms_after_mark(size_t i) const = 0;
};

/// Local: calls `work` once and records what it orders of `device`, none of which happens now. On a GPU the current
/// stream must not be the default one, and `work` must neither wait for the device nor read from it. What `work`
/// throws comes out, and c10::Error where CUDA does not record it.
///
/// On the CPU, which records nothing, each replay calls `work` again: a rehearsal of who records and replays what.
std::unique_ptr<RecordedWork> record_work(c10::Device device, std::function<void(RecordedWork&)> work);

}  // namespace lockstep
