// What rank 0 says while it trains: console, metrics.jsonl and TensorBoard.
#pragma once

#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/evaluator.h"
#include "lockstep/event_writer.h"
#include "log/json_lines.h"
#include "log/progress.h"
#include "train/plan.h"
#include "train/run_files.h"
#include "train/speed.h"
#include "train/step_clock.h"

namespace lockstep {

/// How long the files of the log are.
struct LogPositions {
  int64_t metrics_bytes = 0;
  std::vector<std::pair<std::string, int64_t>> events;  ///< names and bytes of TensorBoard's files
};

/// Takes the log of a run in `folder` back to what it was: files are cut, TensorBoard files of the run that came later
/// go and leave its list. Rank 0 only. Throws Error (io). Gives a sentence for people if something that was written
/// then is not there any more.
std::vector<std::string> cut_log(const std::string& folder, const LogPositions& positions, RunFiles& files);

/// Rank 0 only. What cannot be written (a full disk) is told once and kept until it can be; only end() throws Error
/// (io) then.
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
    int64_t first_step = 0;            ///< done before, by an earlier start of the run
    double seconds_before = 0;         ///< that these took
    LogPositions before = {};          ///< what they wrote; the log goes on behind it
    std::function<void()> guard = {};  ///< called before anything is written; what it throws passes on
  };
  explicit RunLog(const Options& options);

  void text(const std::string& lines);    ///< to the console
  std::size_t columns() const;            ///< that a line of text() may take beside what marks synthetic data
  void warning(const std::string& what);  ///< to the console, and an event of metrics.jsonl
  void resumed(const std::string& checkpoint, int world_size, int threads);
  void checkpoint(int64_t step, const std::string& path, int64_t bytes, double seconds);
  void start(int world_size, int threads, int64_t parameters, const std::string& device);
  /// After each step, cheap: moves the bar on a terminal.
  void step(int64_t step, int64_t epoch, double images_per_s);
  /// After the first step: seconds from the start of the process.
  void first_step(double startup_s);
  void train(int64_t step, int64_t epoch, double train_loss, double lr, const Speed& speed, const StepFigures& figures);
  void test(int64_t step, int64_t epoch, const Evaluation& result, double seconds);
  void weights(const std::string& path);
  void end(int64_t steps, const std::string& reason);

  LogPositions positions() const;
  std::vector<std::string> files() const;  ///< that are being written
  std::string event_file() const;          ///< the name of TensorBoard's
  double seconds() const;                  ///< of training, those before included

 private:
  void json(nlohmann::ordered_json values);
  void scalar(const std::string& tag, int64_t step, double value);
  void keep(const std::function<void()>& write);
  double seconds_left(int64_t step) const;
  std::string epoch_text(int64_t epoch) const;

  Options options_;
  bool terminal_;
  Progress progress_;
  JsonLines lines_;
  EventWriter events_;
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  bool behind_ = false;     // something is kept for later
  std::string gpu_memory_;  // as it was last told
  double last_loss_ = std::nan("");
};

}  // namespace lockstep
