#include "log/trace.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

namespace lockstep {

Trace::Trace(int rank, std::string host, Clock::time_point origin) : rank_(rank), origin_(origin) {
  const auto name = [&](const char* what, int thread, const std::string& text) {
    add(nlohmann::json({{"ph", "M"}, {"name", what}, {"pid", rank_}, {"tid", thread}, {"args", {{"name", text}}}})
            .dump());
  };
  name("process_name", 0, fmt::format("rank {} on {}", rank, host));
  name("thread_name", 0, "step");
  add(nlohmann::json({{"ph", "M"}, {"name", "process_sort_index"}, {"pid", rank_}, {"args", {{"sort_index", rank}}}})
          .dump());
}

double Trace::microseconds(Clock::time_point time) const {
  return std::chrono::duration<double, std::micro>(time - origin_).count();
}

void Trace::add(const std::string& event) {
  if (!events_.empty()) events_ += ",\n";
  events_ += event;
}

void Trace::span(const std::string& name, Clock::time_point begin, Clock::time_point end) {
  const std::lock_guard lock(mutex_);
  add(nlohmann::json({{"ph", "X"},
                      {"name", name},
                      {"cat", "step"},
                      {"pid", rank_},
                      {"tid", 0},
                      {"ts", microseconds(begin)},
                      {"dur", microseconds(end) - microseconds(begin)}})
          .dump());
}

void Trace::beside(const std::string& name, int64_t bytes, Clock::time_point begin, Clock::time_point end) {
  const std::lock_guard lock(mutex_);
  nlohmann::json event = {{"ph", "b"},    {"name", name}, {"cat", "communication"},    {"id", next_id_++},
                          {"pid", rank_}, {"tid", 0},     {"ts", microseconds(begin)}, {"args", {{"bytes", bytes}}}};
  add(event.dump());
  event["ph"] = "e";
  event["ts"] = microseconds(end);
  event.erase("args");
  add(event.dump());
}

std::string Trace::events() const {
  const std::lock_guard lock(mutex_);
  return events_;
}

std::string Trace::file(const std::vector<std::string>& events_of_ranks) {
  return fmt::format("{{\"displayTimeUnit\": \"ms\", \"traceEvents\": [\n{}\n]}}\n", fmt::join(events_of_ranks, ",\n"));
}

}  // namespace lockstep
