// TensorBoard scalars, written without TensorFlow and without protobuf.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace lockstep {

/// Appends scalar events to a new file `events.out.tfevents.<seconds>.<host>.<pid>.<n>` in a folder.
///
///     EventWriter events("runs/one");
///     events.scalar("train_loss", 100, 2.3);
///
/// Format: docs/tensorboard-events.md (TFRecord framing with masked CRC-32C; Event messages of
/// tensorboard/compat/proto/event.proto). Each event is one write(2) of whole records, so a reader sees it at once and
/// a crash tears at most the last one. Local, not thread-safe. Throws Error (ExitCode::io) naming the file when a write
/// fails; the event is then kept and written before the next one, or by flush(). Throws Error (ExitCode::internal) for
/// a tag that is not UTF-8, because TensorBoard cannot read a file that holds one; nothing is written then.
class EventWriter {
 public:
  explicit EventWriter(const std::string& folder);
  ~EventWriter();
  EventWriter(EventWriter&&) noexcept;
  EventWriter& operator=(EventWriter&&) = delete;

  void scalar(const std::string& tag, int64_t step, double value);
  void flush();
  const std::string& path() const;
  int64_t size() const;  ///< bytes of the file, kept events included

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep
