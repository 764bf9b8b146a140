#include "lockstep/event_writer.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <chrono>
#include <filesystem>
#include <string_view>

#include "lockstep/error.h"
#include "log/patient_file.h"
#include "store/crc32.h"
#include "store/files.h"
#include "store/utf8.h"

namespace lockstep {
namespace {

// --- protocol buffers, as much as an Event needs; field numbers are docs/tensorboard-events.md's ---

template <typename Unsigned>
void put_little_endian(std::string& out, Unsigned value) {
  for (std::size_t i = 0; i < sizeof(value); ++i) out += static_cast<char>(value >> 8 * i & 0xff);
}

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kLengthDelimited = 2, kFixed32 = 5 };

void put_key(std::string& out, uint32_t field, WireType type) { put_varint(out, field << 3 | type); }

void put_double(std::string& out, uint32_t field, double value) {
  put_key(out, field, kFixed64);
  put_little_endian(out, std::bit_cast<uint64_t>(value));
}

void put_float(std::string& out, uint32_t field, float value) {
  put_key(out, field, kFixed32);
  put_little_endian(out, std::bit_cast<uint32_t>(value));
}

void put_int64(std::string& out, uint32_t field, int64_t value) {
  put_key(out, field, kVarint);
  put_varint(out, static_cast<uint64_t>(value));
}

void put_bytes(std::string& out, uint32_t field, std::string_view bytes) {
  put_key(out, field, kLengthDelimited);
  put_varint(out, bytes.size());
  out += bytes;
}

// --- events ---

double wall_time_s() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string event_now() {
  std::string event;
  put_double(event, 1, wall_time_s());
  return event;
}

std::string first_event() {
  std::string event = event_now();
  put_bytes(event, 3, "brain.Event:2");
  return event;
}

std::string scalar_event(std::string_view tag, int64_t step, double number) {
  std::string value;
  put_bytes(value, 1, tag);
  put_float(value, 2, static_cast<float>(number));
  std::string summary;
  put_bytes(summary, 1, value);
  std::string event = event_now();
  put_int64(event, 2, step);
  put_bytes(event, 5, summary);
  return event;
}

uint32_t masked_check(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xa282ead8; }

std::string framed(std::string_view payload) {
  std::string record;
  put_little_endian(record, uint64_t{payload.size()});
  put_little_endian(record, masked_check(record));
  record += payload;
  put_little_endian(record, masked_check(payload));
  return record;
}

std::string host_name() {
  char name[256] = {};
  if (::gethostname(name, sizeof(name) - 1) != 0 || name[0] == '\0') return "localhost";
  return name;
}

AppendFile new_file(const std::string& folder) {
  static std::atomic<unsigned> counter{0};
  make_folder(folder);
  // Seconds, host, process and counter make the name unique. An existing file is never appended to.
  const std::string name = fmt::format("events.out.tfevents.{:010}.{}.{}.{}", static_cast<int64_t>(wall_time_s()),
                                       host_name(), ::getpid(), counter++);
  return AppendFile((std::filesystem::path(folder) / name).string(), AppendFile::Mode::create);
}

}  // namespace

struct EventWriter::Impl {
  PatientFile file;
};

EventWriter::EventWriter(const std::string& folder) : impl_(new Impl{PatientFile(new_file(folder))}) {
  impl_->file.append(framed(first_event()));
}
EventWriter::~EventWriter() = default;
EventWriter::EventWriter(EventWriter&&) noexcept = default;

void EventWriter::scalar(const std::string& tag, int64_t step, double value) {
  if (!is_utf8(tag)) {  // TensorBoard would read nothing more of the file
    throw Error(ExitCode::internal, fmt::format("the tag \"{}\" for {} is not UTF-8", escaped(tag), path()),
                "give the tag in UTF-8");
  }
  impl_->file.append(framed(scalar_event(tag, step, value)));
}

void EventWriter::flush() { impl_->file.flush(); }

int64_t EventWriter::size() const { return impl_->file.size(); }

const std::string& EventWriter::path() const { return impl_->file.path(); }

}  // namespace lockstep
