#include "train/run_log.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include "lockstep/error.h"
#include "log/text.h"
#include "store/files.h"
#include "world/last_words.h"
#include "world/launcher.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;

nlohmann::ordered_json to_json(const Spread& spread) {
  return {{"min", spread.least}, {"median", spread.median}, {"max", spread.most}, {"worst_rank", spread.worst_rank}};
}

// "12.1-12.9", "112-119": of the rank with the least and of that with the most.
std::string range_of(const Spread& spread) {
  const int digits = spread.most < 100 ? 1 : 0;
  return fmt::format("{:.{}f}-{:.{}f}", spread.least, digits, spread.most, digits);
}

constexpr std::size_t kColumns = 80;
constexpr const char* kSynthetic = "[SYNTHETIC] ";

}  // namespace

RunLog::RunLog(const Options& options)
    : options_(options),
      terminal_(stdout_is_terminal()),
      progress_(stdout, terminal_, options.quiet, options.synthetic ? kSynthetic : ""),
      lines_(options.folder + "/metrics.jsonl"),
      events_(options.folder) {}

void RunLog::text(const std::string& lines) {
  for (size_t at = 0; at < lines.size();) {
    const size_t end = std::min(lines.find('\n', at), lines.size());
    const std::string_view line = std::string_view(lines).substr(at, end - at);
    const std::size_t indent = std::min(line.find_first_not_of(' '), line.size()) + 2;
    for (const std::string& fitting : wrapped(line, columns(), indent)) progress_.line(fitting);
    at = end + 1;
  }
}

std::string RunLog::epoch_text(int64_t epoch) const {
  return fmt::format("epoch {:<{}}", epoch, std::to_string(std::max<int64_t>(0, options_.epochs - 1)).size());
}

std::size_t RunLog::columns() const {
  return kColumns - (options_.synthetic ? std::string_view(kSynthetic).size() : 0);
}

void RunLog::keep(const std::function<void()>& write) {
  if (options_.guard) options_.guard();
  try {
    write();
    if (behind_) {  // that file is complete again; the other one may not be
      lines_.flush();
      events_.flush();
      behind_ = false;
      progress_.line("the log is complete again");
    }
  } catch (const Error& error) {
    if (error.code() != ExitCode::io) throw;
    if (!behind_) {
      progress_.finish();
      print_warning(fmt::format("{}; training goes on, and what the log lacks is kept in memory", error.what()),
                    error.hint());
    }
    behind_ = true;
  }
}

void RunLog::json(nlohmann::ordered_json values) {
  if (options_.synthetic) values["data"] = "SYNTHETIC";
  keep([&] { lines_.write(values); });
}

void RunLog::scalar(const std::string& tag, int64_t step, double value) {
  keep([&] { events_.scalar(tag, step, value); });
}

double RunLog::seconds() const {
  return options_.seconds_before + std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
}

double RunLog::seconds_left(int64_t step) const {
  const auto done = static_cast<double>(std::max<int64_t>(1, step - options_.first_step));
  return (seconds() - options_.seconds_before) / done * static_cast<double>(options_.plan.total_steps - step);
}

LogPositions RunLog::positions() const {
  LogPositions now = options_.before;
  now.metrics_bytes = lines_.size();
  now.events.emplace_back(event_file(), events_.size());
  return now;
}

std::vector<std::string> RunLog::files() const { return {lines_.path(), events_.path()}; }

std::string RunLog::event_file() const { return fs::path(events_.path()).filename().string(); }

void RunLog::warning(const std::string& what) {
  progress_.finish();
  print_warning(what, "");
  json({{"event", "warning"}, {"text", what}});
}

void RunLog::resumed(const std::string& checkpoint, int world_size, int threads) {
  progress_.line(fmt::format("goes on after step {} from {}", grouped(options_.first_step), checkpoint));
  json({{"event", "resume"},
        {"step", options_.first_step},
        {"time", static_cast<int64_t>(std::time(nullptr))},
        {"checkpoint", checkpoint},
        {"world_size", world_size},
        {"threads", threads}});
}

void RunLog::checkpoint(int64_t step, const std::string& path, int64_t bytes, double seconds) {
  json({{"event", "checkpoint"}, {"step", step}, {"path", path}, {"bytes", bytes}, {"seconds", seconds}});
}

void RunLog::start(int world_size, int threads, int64_t parameters, const std::string& device) {
  json({{"event", "start"},
        {"time", static_cast<int64_t>(std::time(nullptr))},
        {"world_size", world_size},
        {"threads", threads},
        {"device", device},
        {"parameters", parameters},
        {"batch_per_rank", options_.plan.most_per_rank},
        {"total_steps", options_.plan.total_steps}});
}

void RunLog::first_step(double startup_s) {
  json({{"event", "first_step"}, {"step", options_.first_step + 1}, {"startup_s", startup_s}});
}

void RunLog::step(int64_t step, int64_t epoch, double images_per_s) {
  if (!terminal_ && options_.logs) return;  // the lines of train() are enough
  progress_.step({.step = step,
                  .total_steps = options_.plan.total_steps,
                  .epoch = epoch,
                  .epochs = options_.epochs,
                  .loss = last_loss_,
                  .images_per_s = images_per_s,
                  .seconds_left = seconds_left(step)});
}

void RunLog::train(int64_t step, int64_t epoch, double train_loss, double lr, const Speed& speed,
                   const StepFigures& figures) {
  const double images_per_s = speed.images_per_s();
  const StepTimes times = speed.step_times();
  last_loss_ = train_loss;
  progress_.line(parts_within(
      {epoch_text(epoch), fmt::format("step {:>{}}", step, std::to_string(options_.plan.total_steps).size()),
       fmt::format("train loss {:.4f}", train_loss), fmt::format("{} images/s", grouped(std::llround(images_per_s))),
       human_duration(seconds_left(step)) + " left"},
      columns()));
  if (options_.world_size > 1) {
    progress_.line(
        parts_within({fmt::format("  ms: compute {} (rank {})", range_of(figures.compute), figures.compute.worst_rank),
                      "data " + range_of(figures.data_wait), "waiting " + range_of(figures.comm_wait)},
                     columns()));
  }
  if (figures.gpu_memory.most > 0) {
    const std::string memory = options_.world_size > 1
                                   ? fmt::format("{:.2f}-{:.2f} (rank {})", figures.gpu_memory.least,
                                                 figures.gpu_memory.most, figures.gpu_memory.worst_rank)
                                   : fmt::format("{:.2f}", figures.gpu_memory.most);
    if (std::exchange(gpu_memory_, memory) != memory) progress_.line("  GiB of GPU memory: " + memory);
  }
  nlohmann::ordered_json values = {
      {"event", "train"},
      {"step", step},
      {"epoch", epoch},
      {"train_loss", train_loss},
      {"lr", lr},
      {"images_per_s", images_per_s},
      {"step_ms", {{"median", 1e3 * times.median}, {"p95", 1e3 * times.p95}, {"max", 1e3 * times.most}}},
      {"compute_ms", to_json(figures.compute)},
      {"data_wait_ms", to_json(figures.data_wait)},
      {"comm_wait_ms", to_json(figures.comm_wait)}};
  if (figures.gpu_memory.most > 0) {
    values["gpu_memory_gib"] = to_json(figures.gpu_memory);
    scalar("gpu_memory_gib/max", step, figures.gpu_memory.most);
  }
  json(std::move(values));
  scalar("train_loss", step, train_loss);
  scalar("lr", step, lr);
  scalar("images_per_s", step, images_per_s);
  scalar("step_ms/median", step, 1e3 * times.median);
  scalar("step_ms/p95", step, 1e3 * times.p95);
  scalar("step_ms/max", step, 1e3 * times.most);
  for (const auto& [name, spread] :
       {std::pair{"compute_ms", figures.compute}, std::pair{"data_wait_ms", figures.data_wait},
        std::pair{"comm_wait_ms", figures.comm_wait}}) {
    scalar(fmt::format("{}/min", name), step, spread.least);
    scalar(fmt::format("{}/median", name), step, spread.median);
    scalar(fmt::format("{}/max", name), step, spread.most);
    scalar(fmt::format("{}/worst_rank", name), step, spread.worst_rank);
  }
}

void RunLog::test(int64_t step, int64_t epoch, const Evaluation& result, double seconds) {
  progress_.line(
      parts_within({epoch_text(epoch), fmt::format("test loss {:.4f} (mean {:.4f})", result.loss_sum, result.loss_mean),
                    fmt::format("accuracy {:.2f} %", 100 * result.accuracy), "in " + human_duration(seconds)},
                   columns()));
  json({{"event", "test"},
        {"epoch", epoch},
        {"step", step},
        {"test_loss", result.loss_sum},
        {"test_loss_mean", result.loss_mean},
        {"test_accuracy", result.accuracy},
        {"seconds", seconds}});
  scalar("test_loss", epoch, result.loss_sum);
  scalar("test_loss_mean", epoch, result.loss_mean);
  scalar("test_accuracy", epoch, result.accuracy);
}

void RunLog::weights(const std::string& path) { progress_.line("saved " + path); }

void RunLog::end(int64_t steps, const std::string& reason) {
  progress_.finish();
  progress_.line(fmt::format("done: {} steps in {} ({})", grouped(steps), human_duration(seconds()), reason));
  json({{"event", "end"}, {"step", steps}, {"seconds", seconds()}, {"reason", reason}});
  lines_.flush();
  events_.flush();
}

std::vector<std::string> cut_log(const std::string& folder, const LogPositions& positions, RunFiles& files) {
  std::vector<std::string> short_ones;
  const auto cut = [&](const std::string& name, int64_t bytes) {
    if (cut_file(folder + "/" + name, bytes) < bytes) short_ones.push_back(name);
  };
  cut("metrics.jsonl", positions.metrics_bytes);
  for (const auto& [name, bytes] : positions.events) cut(name, bytes);
  const std::set<std::string> names = files.names();
  for (const std::string& name : names) {
    const bool kept = std::any_of(positions.events.begin(), positions.events.end(),
                                  [&](const auto& file) { return file.first == name; });
    if (!name.starts_with("events.out.tfevents.") || kept) continue;
    std::error_code error;
    fs::remove(folder + "/" + name, error);
    if (!error) files.drop(name);
  }
  if (short_ones.empty()) return {};
  return {fmt::format("{} of the log: shorter than at the checkpoint, so earlier lines are missing",
                      fmt::join(short_ones, ", "))};
}

}  // namespace lockstep
