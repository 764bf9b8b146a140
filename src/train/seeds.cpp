#include "train/seeds.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <system_error>
#include <utility>

#include "lockstep/error.h"
#include "lockstep/world.h"
#include "store/files.h"
#include "train/run_folder.h"
#include "world/stop_request.h"

namespace lockstep {
namespace {

// A folder that goes again if nothing was put into it.
struct Unused {
  explicit Unused(std::string name) : folder(std::move(name)) {}
  ~Unused() { ::rmdir(folder.c_str()); }
  Unused(const Unused&) = delete;
  Unused& operator=(const Unused&) = delete;
  std::string folder;
};

void check_request(const TrainRequest& request, int64_t count) {
  if (count < 1) {
    throw Error(ExitCode::usage, fmt::format("--seeds {} is out of range", count), "give the number of runs, from 1");
  }
  if (!request.resume.empty()) {
    throw Error(ExitCode::usage, "--seeds begins its runs, and --resume goes on with one",
                "leave one of them out; a run of a seed goes on by --resume OUT/seed-S");
  }
  if (request.settings.eval_every_epochs == 0) {
    throw Error(ExitCode::usage, "--seeds compares tests, and eval.every_epochs = 0 makes none",
                "--set eval.every_epochs=1, or more to test less often: the last step is always tested");
  }
}

}  // namespace

MeanAndDeviation spread_of(const std::vector<double>& values) {
  const auto count = static_cast<double>(values.size());
  MeanAndDeviation spread;
  spread.mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
  if (values.size() < 2) return spread;
  double squares = 0;
  for (const double value : values) squares += (value - spread.mean) * (value - spread.mean);
  spread.deviation = std::sqrt(squares / (count - 1));
  return spread;
}

TrainResult::End train_seeds(World& world, TrainRequest request, int64_t count) {
  std::string out = request.out;
  std::optional<Unused> made;
  world.together([&] {
    check_request(request, count);
    if (world.rank() != 0) return;
    if (out.empty()) made.emplace(out = default_run_folder(request.recipe, std::time(nullptr)));
    if (std::error_code error; !request.overwrite && std::filesystem::exists(out + "/seeds.json", error)) {
      throw Error(ExitCode::usage, fmt::format("{}/seeds.json is there already, of other runs", out),
                  "choose another --out, or give --overwrite to replace it");
    }
  });
  // One for all runs, so that none between two is lost.
  std::optional<StopRequest> signals;
  if (request.stop_on_signals) signals.emplace();
  request.stop_on_signals = false;

  out = world.all_gather(out)[0];
  const int64_t first = request.settings.train_seed;
  std::vector<int64_t> seeds;
  std::vector<double> loss;
  std::vector<double> loss_mean;
  std::vector<double> accuracy;
  for (int64_t seed = first; seed < first + count; ++seed) {
    request.settings.train_seed = seed;
    request.out = fmt::format("{}/seed-{}", out, seed);
    const TrainResult result = train(world, request);  // all ranks
    if (result.end != TrainResult::End::done) return result.end;
    if (!result.last) continue;  // no epochs: no test either
    seeds.push_back(seed);
    loss.push_back(result.last->loss_sum);
    loss_mean.push_back(result.last->loss_mean);
    accuracy.push_back(result.last->accuracy);
  }
  if (world.rank() != 0 || seeds.empty()) return TrainResult::End::done;

  nlohmann::ordered_json json = {{"seeds", seeds}};
  for (const auto& [name, values] : {std::pair{"test_loss", &loss}, std::pair{"test_loss_mean", &loss_mean},
                                     std::pair{"test_accuracy", &accuracy}}) {
    const MeanAndDeviation spread = spread_of(*values);
    json[name] = {{"values", *values}, {"mean", spread.mean}, {"standard_deviation", spread.deviation}};
  }
  write_durably(out + "/seeds.json", json.dump() + "\n");
  if (!request.quiet) {
    const auto [mean_loss, loss_deviation] = spread_of(loss);
    const auto [mean_accuracy, accuracy_deviation] = spread_of(accuracy);
    fmt::print("{} seeds (mean ± standard deviation): test loss {:.4f} ± {:.4f}, accuracy {:.2f} ± {:.2f} %\n",
               seeds.size(), mean_loss, loss_deviation, 100 * mean_accuracy, 100 * accuracy_deviation);
  }
  return TrainResult::End::done;
}

}  // namespace lockstep
