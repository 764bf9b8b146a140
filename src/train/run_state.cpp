#include "train/run_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>

#include "lockstep/cifar10.h"
#include "store/digest.h"
#include "store/zip_reader.h"

namespace lockstep {
namespace {

using Json = nlohmann::ordered_json;

// All others must stay as they are: they say what a step computes.
enum class OnResume { may_change, ignored };
const std::map<std::string, OnResume>& free_settings() {
  static const std::map<std::string, OnResume> all = {
      {"data.dir", OnResume::ignored},  // the images are compared, not the folder's name
      {"train.epochs", OnResume::may_change},
      {"train.max_steps", OnResume::may_change},
      {"train.cuda_graph", OnResume::may_change},
      {"optim.lr_scale", OnResume::ignored},
      {"optim.divide", OnResume::may_change},
      {"eval.batch", OnResume::may_change},
      {"eval.every_epochs", OnResume::may_change},
      {"eval.tta", OnResume::may_change},
      {"log.every_steps", OnResume::may_change},
      {"checkpoint.every_steps", OnResume::may_change},
      {"checkpoint.every_epochs", OnResume::may_change},
      {"checkpoint.keep", OnResume::may_change},
      {"ddp.bucket_bytes", OnResume::may_change},
      {"ddp.overlap", OnResume::may_change},
      {"ddp.audit_every", OnResume::may_change},
      {"watch.deadline_s", OnResume::may_change},
  };
  return all;
}

std::map<std::string, std::string> by_name(const std::vector<std::pair<std::string, std::string>>& values) {
  return {values.begin(), values.end()};
}

}  // namespace

std::string RunState::to_json() const {
  Json json = {{"step", step},       {"epoch", epoch},           {"epoch_step", epoch_step},
               {"seconds", seconds}, {"world_size", world_size}, {"threads", threads},
               {"data", data},       {"test_data", test_data}};
  if (best) json["best"] = {{"test_accuracy", best->accuracy}, {"epoch", best->epoch}, {"step", best->step}};
  json["metrics_bytes"] = logs.metrics_bytes;
  json["events"] = Json::object();
  for (const auto& [name, bytes] : logs.events) json["events"][name] = bytes;
  json["settings"] = Json::object();
  for (const auto& [name, value] : settings) json["settings"][name] = value;
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

RunState RunState::from_json(const std::string& text) {
  try {
    const Json json = Json::parse(text);
    RunState state;
    json.at("step").get_to(state.step);
    json.at("epoch").get_to(state.epoch);
    json.at("epoch_step").get_to(state.epoch_step);
    json.at("seconds").get_to(state.seconds);
    json.at("world_size").get_to(state.world_size);
    json.at("threads").get_to(state.threads);
    json.at("data").get_to(state.data);
    state.test_data = json.value("test_data", "");
    if (json.contains("best")) {
      const Json& best = json.at("best");
      state.best = BestTest{.accuracy = best.at("test_accuracy").get<double>(),
                            .epoch = best.at("epoch").get<int64_t>(),
                            .step = best.at("step").get<int64_t>()};
    }
    json.at("metrics_bytes").get_to(state.logs.metrics_bytes);
    for (const auto& [name, bytes] : json.at("events").items())
      state.logs.events.emplace_back(name, bytes.get<int64_t>());
    for (const auto& [name, value] : json.at("settings").items()) {
      state.settings.emplace_back(name, value.get<std::string>());
    }
    return state;
  } catch (const Json::exception& error) {
    throw Malformed(fmt::format("the run's state is not as expected: {}", error.what()));
  }
}

DataMarks data_marks(const Cifar10& train, const Cifar10& test) {
  const auto whole = [](const Cifar10& set) { return fmt::format("{} images, whole {}", set.size(), set.digest()); };
  std::string sample;
  for (int64_t i = 0; i < train.size(); i += std::max<int64_t>(1, train.size() / 64)) {
    sample += static_cast<char>(train.label(i));
    sample.append(reinterpret_cast<const char*>(train.pixels(i)), Cifar10::kPixels);
  }
  return {.train = whole(train),
          .test = whole(test),
          .train_sample = fmt::format("{} images, {}", train.size(), digest_bytes(sample))};
}

std::vector<std::string> refused_changes(const RunState& state, const Settings& now, const DataMarks& data) {
  std::vector<std::string> lines;
  const auto current = by_name(setting_values(now));
  const auto kept = by_name(state.settings);
  for (const auto& [name, value] : setting_values(now)) {
    if (free_settings().contains(name)) continue;
    const auto before = kept.find(name);
    // A setting that came into being later: the run had its default.
    const std::string was = before != kept.end() ? before->second : by_name(setting_values(Settings()))[name];
    if (was != value) lines.push_back(fmt::format("{}: {} in the checkpoint, {} now", name, was, value));
  }
  for (const auto& [name, value] : state.settings) {
    if (!current.contains(name)) lines.push_back(fmt::format("{}: {} in the checkpoint, unknown now", name, value));
  }
  if (state.data != data.train && state.data != data.train_sample) {
    lines.push_back(fmt::format("the training images: {} in the checkpoint, {} now", state.data, data.train));
  }
  if (!state.test_data.empty() && state.test_data != data.test) {
    lines.push_back(fmt::format("the test images: {} in the checkpoint, {} now", state.test_data, data.test));
  }
  return lines;
}

std::vector<std::string> noted_changes(const RunState& state, const Settings& now, int world_size, int threads) {
  std::vector<std::string> lines;
  if (state.world_size != world_size) {
    lines.push_back(fmt::format("{} ranks before, {} now: the same images in the same order{}", state.world_size,
                                world_size,
                                now.train_virtual_ranks > 0 ? " and the same bits" : ", but not the same bits"));
  }
  if (state.threads != threads) {
    lines.push_back(fmt::format("{} threads a rank before, {} now: not the same bits", state.threads, threads));
  }
  const auto kept = by_name(state.settings);
  for (const auto& [name, value] : setting_values(now)) {
    const auto free = free_settings().find(name);
    const auto before = kept.find(name);
    if (free == free_settings().end() || free->second == OnResume::ignored || before == kept.end()) continue;
    if (before->second != value) lines.push_back(fmt::format("{}: {} before, {} now", name, before->second, value));
  }
  return lines;
}

}  // namespace lockstep
