#include "bench/operators.h"

#include <ATen/record_function.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <string_view>
#include <thread>

namespace lockstep {

// What observers have seen.
struct OperatorCounts {
  std::mutex mutex;
  std::map<std::string, OperatorTime, std::less<>> of_name;
  std::thread::id thread;
  double outermost_s = 0;  // operators of `thread` that no other one called
};

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// An operator under way. Observers are plain functions, so what they share is found through `frame` and `counting`.
struct Frame : at::ObserverContext {
  Clock::time_point start;
  Frame* caller = nullptr;
  double called_s = 0;  // of the operators that it called
};

thread_local Frame* frame = nullptr;
std::atomic<std::shared_ptr<OperatorCounts>> counting;  // other threads may end an operator after stop()

std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction&) {
  auto started = std::make_unique<Frame>();
  started->caller = frame;
  frame = started.get();
  started->start = Clock::now();
  return started;
}

void end(const at::RecordFunction& function, at::ObserverContext* context) {
  auto* ended = static_cast<Frame*>(context);
  const double seconds = seconds_since(ended->start);
  if (frame != ended) return;  // it ended on another thread than it began on
  frame = ended->caller;
  if (frame != nullptr) frame->called_s += seconds;
  const std::shared_ptr<OperatorCounts> counts = counting.load();
  if (counts == nullptr) return;
  const std::lock_guard lock(counts->mutex);
  const std::string_view name = function.name();
  auto entry = counts->of_name.find(name);
  if (entry == counts->of_name.end()) {
    entry = counts->of_name.emplace(name, OperatorTime{.name = std::string(name)}).first;
  }
  ++entry->second.calls;
  entry->second.self_s += seconds - ended->called_s;
  if (frame == nullptr && std::this_thread::get_id() == counts->thread) counts->outermost_s += seconds;
}

// A node of a torch::autograd::Function, as LibTorch names those of its own: the type's name and "Backward".
std::string named_like_libtorchs(std::string name) {
  constexpr std::string_view kNode = "torch::autograd::CppNode<", kUnnamed = "(anonymous namespace)::";
  const size_t node = name.find(kNode);
  if (node == std::string::npos || !name.ends_with('>')) return name;
  name.replace(name.size() - 1, 1, "Backward");
  name.erase(node, kNode.size());
  for (size_t at = 0; (at = name.find(kUnnamed, at)) != std::string::npos;) name.erase(at, kUnnamed.size());
  return name;
}

}  // namespace

struct OperatorTimes::Impl {
  std::shared_ptr<OperatorCounts> counts = std::make_shared<OperatorCounts>();
  Clock::time_point start;
  at::CallbackHandle handle = at::INVALID_CALLBACK_HANDLE;

  void remove() {
    if (handle == at::INVALID_CALLBACK_HANDLE) return;
    at::removeCallback(handle);
    handle = at::INVALID_CALLBACK_HANDLE;
    counting.store(nullptr);
  }
};

OperatorTimes::OperatorTimes() : impl_(std::make_unique<Impl>()) {
  impl_->counts->thread = std::this_thread::get_id();
  counting = impl_->counts;
  impl_->handle = at::addGlobalCallback(
      at::RecordFunctionCallback(&begin, &end).scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION}));
  impl_->start = Clock::now();
}

OperatorTimes::~OperatorTimes() { impl_->remove(); }

std::vector<OperatorTime> OperatorTimes::stop() {
  const double seconds = seconds_since(impl_->start);
  impl_->remove();
  const std::lock_guard lock(impl_->counts->mutex);
  std::vector<OperatorTime> all;
  for (const auto& [name, time] : impl_->counts->of_name) {
    all.push_back(time);
    all.back().name = named_like_libtorchs(name);
  }
  std::sort(all.begin(), all.end(), [](const OperatorTime& a, const OperatorTime& b) { return a.self_s > b.self_s; });
  all.push_back({.name = "(no operator)", .calls = 0, .self_s = std::max(0.0, seconds - impl_->counts->outermost_s)});
  return all;
}

std::string operators_table(const std::vector<OperatorTime>& operators, int64_t steps) {
  constexpr size_t kShown = 15;
  double all_s = 0;
  for (const OperatorTime& one : operators) all_s += one.self_s;
  std::string text =
      fmt::format("{:<52} {:>9} {:>9} {:>7}\n", "# operator, by its own time", "ms a step", "calls", "share");
  constexpr std::string_view kEngine = "autograd::engine::evaluate_function";
  const auto row = [&](const OperatorTime& one) {
    const std::string name = one.name.starts_with(kEngine) ? "engine" + one.name.substr(kEngine.size()) : one.name;
    text += fmt::format("{:<52} {:>9.3f} {:>9.1f} {:>5.1f} %\n", name, 1e3 * one.self_s / static_cast<double>(steps),
                        static_cast<double>(one.calls) / static_cast<double>(steps), 100 * one.self_s / all_s);
  };
  OperatorTime others{.name = ""};
  const size_t named = operators.size() - 1;
  for (size_t i = 0; i < named; ++i) {
    if (i < kShown) {
      row(operators[i]);
      continue;
    }
    others.calls += operators[i].calls;
    others.self_s += operators[i].self_s;
  }
  if (named > kShown) {
    others.name = fmt::format("{} others", named - kShown);
    row(others);
  }
  row(operators.back());
  return text;
}

}  // namespace lockstep
