#include "bench/allreduce.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <string>
#include <vector>

#include "bench/slowest.h"
#include "comm/allreduce_sum.h"
#include "comm/mpi/plain_allreduce.h"
#include "lockstep/world.h"
#include "world/synchronize.h"

namespace lockstep {
namespace {

// Inputs and sums repeat with this prime period, which no power of two divides: a part in a wrong place shows.
constexpr int64_t kPeriod = 251;
using Pattern = std::array<float, kPeriod>;

// From 0 to 250, so sums over less than 67,000 ranks stay below 2^24 and are exact in float32.
int64_t input(int64_t element, int64_t rank) { return (element + 97 * rank) % kPeriod; }

class ExactSum {
 public:
  ExactSum(int rank, int ranks) {
    for (int64_t i = 0; i < kPeriod; ++i) {
      int64_t sum = 0;
      for (int64_t each = 0; each < ranks; ++each) sum += input(i, each);
      const auto at = static_cast<size_t>(i);
      input_[at] = static_cast<float>(input(i, rank));
      sum_[at] = static_cast<float>(sum);
    }
  }

  void fill(float* values, int64_t count) const {
    for (int64_t done = 0; done < count; done += kPeriod) {
      std::memcpy(values + done, input_.data(), sizeof(float) * static_cast<size_t>(std::min(kPeriod, count - done)));
    }
  }

  int64_t wrong(const float* values, int64_t count) const {
    int64_t wrong = 0;
    for (int64_t done = 0; done < count; done += kPeriod) {
      const int64_t part = std::min(kPeriod, count - done);
      for (int64_t i = 0; i < part; ++i) wrong += values[done + i] != sum_[static_cast<size_t>(i)] ? 1 : 0;
    }
    return wrong;
  }

 private:
  Pattern input_;
  Pattern sum_;
};

class Measurement {
 public:
  Measurement(World& world, PlainMpi& plain, const at::Tensor& buffer)
      : world_(world),
        plain_(plain),
        buffer_(buffer),
        host_(buffer.cpu()),
        values_(host_.data_ptr<float>()),
        count_(buffer.numel()),
        sum_(world.rank(), world.size()) {}

  // Microseconds on this rank.
  double time_ours() {
    return time([&] {
      allreduce_sum(world_, buffer_);
      synchronize(buffer_.device());
    });
  }
  double time_plain() {
    return time([&] { plain_.allreduce(values_, count_); });
  }
  // In the result of the last call of ours.
  int64_t wrong() {
    if (!host_.is_same(buffer_)) host_.copy_(buffer_);
    return sum_.wrong(values_, count_);
  }

 private:
  template <typename Call>
  double time(Call call) {
    using Clock = std::chrono::steady_clock;
    sum_.fill(values_, count_);
    if (!host_.is_same(buffer_)) buffer_.copy_(host_);
    synchronize(buffer_.device());
    plain_.barrier();
    const auto start = Clock::now();
    call();
    return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
  }

  World& world_;
  PlainMpi& plain_;
  at::Tensor buffer_;
  at::Tensor host_;  // the same, or a copy where MPI and we can reach it
  float* values_;
  int64_t count_;
  ExactSum sum_;
};

}  // namespace

double AllreduceRow::ratio() const { return us.p50 / plain_us.p50; }

double bus_factor(int ranks) { return 2.0 * (ranks - 1) / ranks; }

AllreduceRow measure_allreduce(World& world, PlainMpi& plain, const at::Tensor& buffer,
                               const AllreduceOptions& options) {
  constexpr double kBudgetUs = 0.3e6;
  Measurement measurement(world, plain, buffer);
  int64_t wrong = 0;

  std::vector<double> pairs;  // one call of each kind
  for (int64_t i = 0; i < options.warmup; ++i) {
    pairs.push_back(measurement.time_ours());
    wrong += measurement.wrong();
    pairs.back() += measurement.time_plain();
  }
  // From gathered times, so that all ranks come to the same number; from the median, as the first calls are slow and a
  // scheduler's turn is longer than a small call.
  const double pair_us = summarize(slowest(world, pairs)).p50;
  const int64_t iterations = options.iterations > 0
                                 ? options.iterations
                                 : static_cast<int64_t>(std::clamp(2 * kBudgetUs / pair_us, 5.0, 2000.0));

  std::vector<double> ours;
  std::vector<double> plains;
  const auto call_ours = [&] {
    ours.push_back(measurement.time_ours());
    const bool last_call = static_cast<int64_t>(ours.size()) == iterations;
    if (options.check == AllreduceOptions::Check::all || last_call) wrong += measurement.wrong();
  };
  const auto call_plain = [&] { plains.push_back(measurement.time_plain()); };
  const int64_t batch = (iterations + 9) / 10;
  bool ours_first = true;
  for (int64_t done = 0; done < iterations; done += batch, ours_first = !ours_first) {
    const int64_t calls = std::min(batch, iterations - done);
    for (const bool turn_of_ours : {ours_first, !ours_first}) {
      for (int64_t i = 0; i < calls; ++i) turn_of_ours ? call_ours() : call_plain();
    }
  }

  world.sum(std::span(&wrong, 1));
  AllreduceRow row;
  row.bytes = buffer.numel() * 4;
  row.count = buffer.numel();
  row.iterations = iterations;
  row.wrong = wrong;
  row.us = summarize(slowest(world, ours));
  row.plain_us = summarize(slowest(world, plains));
  row.algbw = static_cast<double>(row.bytes) / row.us.mean / 1e3;
  row.busbw = row.algbw * bus_factor(world.size());
  return row;
}

}  // namespace lockstep
