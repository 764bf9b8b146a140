#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/options.h"
#include "cli/target.h"
#include "lockstep/error.h"
#include "lockstep/weights.h"
#include "log/text.h"
#include "store/files.h"

namespace lockstep {
namespace {

// The newest test line of a run; what is torn or foreign in the file is passed over.
void print_last_test(const std::string& run) {
  std::string text;
  try {
    text = read_file(run + "/metrics.jsonl");
  } catch (const Error&) {  // there is none, or it cannot be read
    return;
  }
  std::istringstream file(text);
  nlohmann::json last;
  for (std::string line; std::getline(file, line);) {
    nlohmann::json parsed = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (parsed.is_object() && parsed.value("event", "") == "test") last = std::move(parsed);
  }
  if (last.is_null()) return;
  fmt::print("last test  epoch {}, step {}: test_loss {}, accuracy {:.2f} %\n", last.value("epoch", 0),
             last.value("step", 0), last.value("test_loss", 0.0), 100 * last.value("test_accuracy", 0.0));
}

}  // namespace

int info_command(const Words& words) {
  cxxopts::Options options("lockstep info", "What a run or a file of weights holds, and whether it can be read.\n");
  options.positional_help("RUN|FILE").custom_help("");
  options.add_options()("target", "A run folder, or a file of weights (.pth, .safetensors, a checkpoint)",
                        cxxopts::value<std::string>(), "RUN|FILE");
  options.parse_positional({"target"});
  const auto flags = parse(options, words);
  if (!flags) return 0;
  if (flags->count("target") == 0) throw Error(ExitCode::usage, "no run or file was named", "lockstep info RUN|FILE");
  const std::string named = (*flags)["target"].as<std::string>();
  const Target target = find_target(named);
  const NamedTensors tensors = load_weights(target.weights);  // throws when it does not read

  if (std::filesystem::is_directory(named)) {
    fmt::print("run        {}\n", named);
    print_last_test(named);
    fmt::print("settings\n");
    for (const auto& [name, value] : setting_values(target.settings)) fmt::print("  {:<24} {}\n", name, value);
  }
  fmt::print("weights    {}\n", target.weights);
  int64_t total = 0;
  for (const auto& [name, tensor] : tensors) {
    total += tensor.numel();
    fmt::print("  {:<24} {:<14} {:<8} {:>12}\n", name,
               fmt::format("{}", fmt::join(tensor.sizes().begin(), tensor.sizes().end(), "x")),
               c10::toString(tensor.scalar_type()), grouped(tensor.numel()));
  }
  fmt::print("  {} tensors, {} values\n", tensors.size(), grouped(total));
  return 0;
}

}  // namespace lockstep
