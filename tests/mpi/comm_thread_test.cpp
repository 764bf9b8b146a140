// The comm thread on its own, with operations of the tests' own.
#include "world/comm_thread.h"

#include <gtest/gtest.h>

#include <thread>

#include "lockstep/error.h"
#include "mpi_main.h"

namespace lockstep {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// Done when told, or after some looks.
class Counted : public MpiOperation {
 public:
  explicit Counted(int looks) : MpiOperation("counted", 8), left_(looks) {}
  std::atomic<int> looked = 0;
  std::atomic<bool> ended = false;

 protected:
  void start() override {}
  bool poll() override {
    ++looked;
    return --left_ <= 0;
  }
  void on_finish() override { ended = true; }
  std::string waits_for() const override { return "a test"; }

 private:
  int left_;
};

class Failing : public Counted {
 public:
  using Counted::Counted;

 protected:
  bool poll() override { throw Error(ExitCode::rank_lost, "the network is gone", "mend it"); }
};

constexpr int kNever = 1'000'000'000;

std::string error_of(CommThread& thread, const std::shared_ptr<MpiOperation>& operation) {
  try {
    thread.wait(*operation);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::rank_lost);
    return error.what();
  }
  return "";
}

TEST(CommThread, MovesOperationsOnWhileNobodyWaits) {
  CommThread thread(MPI_COMM_SELF, false);
  const auto operation = std::make_shared<Counted>(20);
  thread.submit(operation);
  for (const auto end = Clock::now() + std::chrono::seconds(20); !operation->finished() && Clock::now() < end;) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  EXPECT_TRUE(operation->finished());
  EXPECT_TRUE(operation->ended);
  EXPECT_TRUE(thread.at_rest());
}

TEST(CommThread, WithoutTheThreadOnlyTheWaitMovesThem) {
  CommThread thread(MPI_COMM_SELF, false);
  const auto operation = std::make_shared<Counted>(5);
  thread.submit(operation, CommThread::Mode::in_wait);
  std::this_thread::sleep_for(milliseconds(20));
  EXPECT_EQ(operation->looked, 0);
  EXPECT_TRUE(thread.wait(*operation));
  EXPECT_EQ(operation->looked, 5);
}

TEST(CommThread, LooksSeldomAtWhatSomebodyWillWaitForButDoesNotForgetIt) {
  CommThread thread(MPI_COMM_SELF, false);
  const auto operation = std::make_shared<Counted>(5);
  thread.submit(operation, CommThread::Mode::lazily);
  const auto started = Clock::now();
  while (!operation->finished() && Clock::now() < started + std::chrono::seconds(20)) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  EXPECT_TRUE(operation->finished());
  EXPECT_GT(Clock::now() - started, milliseconds(40));  // five looks, ten milliseconds apart

  // One that is to be moved on beside does not have to sleep as long.
  const auto slow = std::make_shared<Counted>(kNever);
  const auto quick = std::make_shared<Counted>(20);
  thread.submit(slow, CommThread::Mode::lazily);
  thread.submit(quick, CommThread::Mode::beside);
  for (const auto end = Clock::now() + std::chrono::seconds(20); !quick->finished() && Clock::now() < end;) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  EXPECT_TRUE(quick->finished());
}

TEST(CommThread, SleepsBetweenLooks) {
  CommThread thread(MPI_COMM_SELF, false);
  const auto operation = std::make_shared<Counted>(kNever);
  thread.submit(operation);
  const auto started = Clock::now();
  std::this_thread::sleep_for(milliseconds(200));
  const double seconds = std::chrono::duration<double>(Clock::now() - started).count();
  EXPECT_GT(operation->looked, 10);
  EXPECT_LT(operation->looked, seconds / 50e-6);  // one look in 50 µs at most
}

TEST(CommThread, APassedDeadlineSaysWhatWaitedForWhomAndFailsAllThatFollows) {
  CommThread thread(MPI_COMM_SELF, false);
  thread.set_deadline(0.1);
  const auto first = std::make_shared<Counted>(kNever);
  const auto second = std::make_shared<Counted>(kNever);
  thread.submit(first);
  thread.submit(second);
  const std::string said = error_of(thread, first);
  EXPECT_NE(said.find("counted"), std::string::npos) << said;
  EXPECT_NE(said.find("8 bytes"), std::string::npos) << said;
  EXPECT_NE(said.find("a test"), std::string::npos) << said;
  EXPECT_EQ(error_of(thread, second), said);
  const auto later = std::make_shared<Counted>(1);
  thread.submit(later);
  EXPECT_EQ(error_of(thread, later), said);
  EXPECT_EQ(later->looked, 0);
  EXPECT_FALSE(thread.at_rest());
}

TEST(CommThread, AnErrorReachesWhoeverWaits) {
  CommThread thread(MPI_COMM_SELF, false);
  const auto operation = std::make_shared<Failing>(1);
  thread.submit(operation);
  EXPECT_EQ(error_of(thread, operation), "the network is gone");
  EXPECT_TRUE(operation->ended);
}

TEST(CommThread, AWaitMayGiveUp) {
  CommThread thread(MPI_COMM_SELF, false);
  const auto operation = std::make_shared<Counted>(kNever);
  thread.submit(operation);
  EXPECT_FALSE(thread.wait(*operation, milliseconds(20)));
  EXPECT_GT(thread.waited_s(), 0.015);
}

TEST(CommThread, SeveralThreadsMaySubmitAndWait) {
  CommThread thread(MPI_COMM_SELF, false);
  std::vector<std::thread> threads;
  std::atomic<int> done = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int k = 0; k < 200; ++k) {
        const auto operation = std::make_shared<Counted>(1 + (i + k) % 3);
        const CommThread::Mode modes[] = {CommThread::Mode::beside, CommThread::Mode::lazily,
                                          CommThread::Mode::in_wait};
        thread.submit(operation, modes[k % 3]);
        thread.wait(*operation);
        done += operation->ended ? 1 : 0;
      }
    });
  }
  for (std::thread& each : threads) each.join();
  EXPECT_EQ(done, 800);
  EXPECT_TRUE(thread.at_rest());
}

TEST(CommThread, TheObserverHearsOfEveryOperation) {
  CommThread thread(MPI_COMM_SELF, false);
  std::atomic<int> heard = 0;
  thread.observe([&](const std::string& name, int64_t bytes, auto begin, auto end) {
    if (name == "counted" && bytes == 8 && begin <= end) ++heard;
  });
  for (int i = 0; i < 3; ++i) thread.run(std::make_shared<Counted>(2));
  thread.observe(nullptr);
  thread.run(std::make_shared<Counted>(2));
  EXPECT_EQ(heard, 3);
}

}  // namespace
}  // namespace lockstep
