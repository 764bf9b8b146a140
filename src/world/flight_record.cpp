#include "world/flight_record.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <nlohmann/json.hpp>
#include <vector>

namespace lockstep {

void FlightRecord::begun(uint64_t number, const std::string& name, int64_t bytes, const Whereabouts::Now& where,
                         Clock::time_point at, uint64_t collective, const Call& call) {
  Entry& entry = entries_[number % entries_.size()];
  entry.number = number;
  entry.name = name;  // keeps its memory
  entry.bytes = bytes;
  entry.collective = collective;
  entry.call = call;
  entry.step = where.step;
  entry.doing = where.doing;
  entry.begun = at;
  entry.state = Entry::State::under_way;
}

void FlightRecord::ended(uint64_t number, bool well, Clock::time_point at) {
  Entry& entry = entries_[number % entries_.size()];
  if (entry.number != number) return;  // more than 200 ago
  entry.ended = at;
  entry.state = well ? Entry::State::done : Entry::State::failed;
}

Call FlightRecord::collective(uint64_t number) const {
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const Entry& entry) { return number > 0 && entry.collective == number; });
  return found == entries_.end() ? Call() : found->call;
}

std::string FlightRecord::json(const Head& head, Clock::time_point now) const {
  const auto ago = [&](Clock::time_point at) { return std::chrono::duration<double>(now - at).count(); };
  nlohmann::ordered_json file = {{"rank", head.rank},
                                 {"size", head.size},
                                 {"host", head.host},
                                 {"time", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)))},
                                 {"reason", head.reason},
                                 {"doing", head.where.doing == nullptr ? "" : head.where.doing},
                                 {"step", head.where.step},
                                 {"doing_s", head.where.seconds},
                                 {"operations", nlohmann::ordered_json::array()}};
  std::vector<const Entry*> entries;
  for (const Entry& entry : entries_) {
    if (entry.number > 0) entries.push_back(&entry);
  }
  std::sort(entries.begin(), entries.end(), [](const Entry* a, const Entry* b) { return a->number < b->number; });
  for (const Entry* entry : entries) {
    nlohmann::ordered_json line = {{"number", entry->number},
                                   {"name", entry->name},
                                   {"bytes", entry->bytes},
                                   {"step", entry->step},
                                   {"doing", entry->doing == nullptr ? "" : entry->doing},
                                   {"begun_s_ago", ago(entry->begun)}};
    if (entry->collective > 0) line["collective"] = to_text(entry->call, entry->collective);
    switch (entry->state) {
      case Entry::State::under_way:
        line["state"] = "under way";
        break;
      case Entry::State::done:
        line["state"] = "done";
        break;
      case Entry::State::failed:
        line["state"] = "failed";
        break;
    }
    if (entry->state != Entry::State::under_way) line["ended_s_ago"] = ago(entry->ended);
    file["operations"].push_back(std::move(line));
  }
  return file.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace lockstep
