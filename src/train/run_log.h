// What rank 0 says while it trains: console, metrics.jsonl and TensorBoard.
#pragma once

#include <chrono>
#include <cmath>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "lockstep/evaluator.h"
#include "lockstep/event_writer.h"
#include "log/json_lines.h"
#include "log/progress.h"
#include "train/plan.h"
#include "train/step_clock.h"

namespace lockstep {

/// Rank 0 only. Throws Error (io) when a line cannot be written.
class RunLog {
 public:
  struct Options {
    std::string folder;
    bool quiet = false;
    bool synthetic = false;  ///< every line says so
    int64_t epochs = 0;
    bool logs = true;  ///< train() will be called now and then
    Plan plan;
    int world_size = 1;
  };
  explicit RunLog(const Options& options);

  void text(const std::string& lines);  ///< to the console
  void start(int world_size, int threads, int64_t parameters, const std::string& device);
  /// After each step, cheap: moves the bar on a terminal.
  void step(int64_t step, int64_t epoch, double images_per_s);
  /// After the first step: seconds from the start of the process.
  void first_step(double startup_s);
  void train(int64_t step, int64_t epoch, double train_loss, double lr, double images_per_s,
             const StepFigures& figures);
  void test(int64_t step, int64_t epoch, const Evaluation& result, double seconds);
  void weights(const std::string& path);
  void end(int64_t steps, const std::string& reason);

 private:
  void json(nlohmann::ordered_json values);
  double seconds() const;
  double seconds_left(int64_t step) const;

  Options options_;
  bool terminal_;
  Progress progress_;
  JsonLines lines_;
  EventWriter events_;
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  double last_loss_ = std::nan("");
};

}  // namespace lockstep
