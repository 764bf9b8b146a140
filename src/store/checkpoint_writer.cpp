#include "store/checkpoint_writer.h"

#include <pthread.h>

#include <chrono>
#include <utility>

#include "store/checkpoint.h"
#include "store/checkpoint_folder.h"
#include "store/files.h"

namespace lockstep {

CheckpointWriter::CheckpointWriter(Options options) : options_(std::move(options)), thread_([this] { loop(); }) {}

CheckpointWriter::~CheckpointWriter() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void CheckpointWriter::submit(Job job) {
  {
    const std::lock_guard lock(mutex_);
    if (waiting_) {
      outcomes_.push_back(
          {.step = waiting_->step, .path = {}, .tensors = std::move(waiting_->tensors), .skipped = true});
    }
    waiting_ = std::move(job);
  }
  changed_.notify_all();
}

void CheckpointWriter::flush() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !waiting_ && !writing_; });
}

std::vector<CheckpointWriter::Outcome> CheckpointWriter::outcomes() {
  const std::lock_guard lock(mutex_);
  return std::exchange(outcomes_, {});
}

void CheckpointWriter::loop() {
  pthread_setname_np(pthread_self(), "lockstep-save");
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return waiting_ || stop_; });
    if (!waiting_) return;
    {
      Job job = std::move(*waiting_);
      waiting_.reset();
      writing_ = true;
      lock.unlock();
      Outcome outcome = write(job);
      outcome.tensors = std::move(job.tensors);
      lock.lock();
      outcomes_.push_back(std::move(outcome));
    }
    writing_ = false;
    changed_.notify_all();
  }
}

CheckpointWriter::Outcome CheckpointWriter::write(const Job& job) {
  const auto started = std::chrono::steady_clock::now();
  Outcome outcome{.step = job.step, .path = options_.folder + "/" + checkpoint_name(job.step)};
  const auto call = [](const std::function<void()>& what) {
    if (what) what();
  };
  try {
    call(options_.guard);  // a folder that was renamed is not made anew
    make_folder(options_.folder);
    for (const std::string& file : job.sync) sync_file(file);
    const SafetensorsPieces checkpoint = checkpoint_pieces(job.tensors, job.state, job.digests);
    const std::vector<std::string_view> pieces = checkpoint.views();
    for (const std::string_view piece : pieces) outcome.bytes += static_cast<int64_t>(piece.size());
    write_durably(outcome.path, pieces, [&](WriteStage stage) {
      if (stage == WriteStage::half_written) call(options_.half_written);
      if (stage == WriteStage::written) call(options_.guard);
    });
    call(options_.before_latest);
    call(options_.guard);
    name_latest(options_.folder, job.step);
    prune(options_.folder, options_.keep, job.keep_besides);
  } catch (const Error& error) {
    outcome.error = error;
  } catch (const std::exception& error) {
    outcome.error = Error(ExitCode::internal, error.what());
  }
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  return outcome;
}

}  // namespace lockstep
