// Who is missing, when a deadline passes: between real ranks, with communicators of the tests' own.
#include "world/roll_call.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "lockstep/error.h"
#include "mpi_main.h"
#include "world/comm_thread.h"

namespace lockstep {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

struct Communicator {
  Communicator() { MPI_Comm_dup(MPI_COMM_WORLD, &comm); }
  ~Communicator() { MPI_Comm_free(&comm); }
  MPI_Comm comm = MPI_COMM_NULL;
};

struct Endless : MpiOperation {
  Endless() : MpiOperation("endless", 8) {}
  void start() override {}
  bool poll() override { return false; }
};

std::string error_of_running(CommThread& thread, const std::shared_ptr<MpiOperation>& operation) {
  try {
    thread.run(operation);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::rank_lost);
    EXPECT_NE(error.hint(), "");
    return error.what();
  }
  return "";
}

CommThread::Watch watch_on(MPI_Comm comm, const Whereabouts& where, std::atomic<int>& asked) {
  return {.comm = comm,
          .place = [](int rank) { return rank == world().rank() ? "" : fmt::format("rank {} on a host", rank); },
          .where = [&where] { return where.now(); },
          .last_step = [&where] { return where.last_step(); },
          .on_asked = [&asked] { ++asked; }};
}

TEST(RollCall, ARankThatComputesAnswersAndIsNamedWithWhatItDoes) {
  if (world().size() == 1) GTEST_SKIP() << "needs two ranks";
  const Communicator own;
  const int last = world().size() - 1;
  Whereabouts where;
  std::atomic<int> asked = 0;
  where.enter(world().rank() == last ? "sleeping" : "waiting", 7);
  {
    CommThread thread(own.comm, false);
    thread.watch(watch_on(own.comm, where, asked));
    world().barrier();
    if (world().rank() == last) {
      std::this_thread::sleep_for(milliseconds(900));
      EXPECT_GE(asked, 1);
    } else {
      thread.set_deadline(0.2);
      const std::string said = error_of_running(thread, std::make_shared<Endless>());
      EXPECT_THAT(said, HasSubstr("endless (operation 1, 8 bytes) in waiting of step 7"));
      EXPECT_THAT(said, HasSubstr(fmt::format("for rank {} on a host, which is alive", last)));
      EXPECT_THAT(said, HasSubstr("in sleeping of step 7"));
    }
    world().barrier();
  }
}

TEST(RollCall, ARankThatDoesNotAnswerIsNamed) {
  if (world().size() == 1) GTEST_SKIP() << "needs two ranks";
  const Communicator own;
  const int last = world().size() - 1;
  Whereabouts where;
  std::atomic<int> asked = 0;
  if (world().rank() != last) {
    CommThread thread(own.comm, false);
    thread.watch(watch_on(own.comm, where, asked));
    thread.set_deadline(0.2);
    const auto started = std::chrono::steady_clock::now();
    const std::string said = error_of_running(thread, std::make_shared<Endless>());
    EXPECT_LT(std::chrono::steady_clock::now() - started, milliseconds(4000));
    EXPECT_THAT(said, HasSubstr(fmt::format("rank {} on a host: no answer", last)));
  }
  world().barrier();
}

TEST(RollCall, WhatComesLateButComesIsNoFailure) {
  if (world().size() == 1) GTEST_SKIP() << "needs two ranks";
  const Communicator own;
  struct Later : Endless {
    std::chrono::steady_clock::time_point at = std::chrono::steady_clock::now() + milliseconds(400);
    bool poll() override { return std::chrono::steady_clock::now() > at; }
  };
  Whereabouts where;
  std::atomic<int> asked = 0;
  if (world().rank() == 0) {  // the others never answer, so the roll call lasts a second
    CommThread thread(own.comm, false);
    thread.watch(watch_on(own.comm, where, asked));
    thread.set_deadline(0.1);
    EXPECT_EQ(error_of_running(thread, std::make_shared<Later>()), "");
  }
  world().barrier();
}

TEST(RollCall, ARankThatWaitsElsewhereMayAskToo) {
  if (world().size() == 1) GTEST_SKIP() << "needs two ranks";
  const int last = world().size() - 1;
  for (const bool answers : {true, false}) {
    const Communicator own;
    Whereabouts where;
    std::atomic<int> asked = 0;
    where.enter("computing", world().rank() == last ? 6 : 7);
    {
      CommThread thread(own.comm, false);
      if (answers || world().rank() != last) thread.watch(watch_on(own.comm, where, asked));
      world().barrier();
      if (world().rank() == 0) {
        const CommThread::Others others = thread.ask_others();
        const std::string odd = fmt::format("rank {} on a host", last);
        EXPECT_EQ(others.silent, answers ? std::vector<std::string>() : std::vector<std::string>{odd});
        EXPECT_EQ(others.behind, answers ? odd + ", alive and in computing of step 6" : "");
      }
      world().barrier();
    }
  }
}

TEST(RollCall, ARankWhoseDeadlineHasPassedStillAnswers) {
  if (world().size() < 3) GTEST_SKIP() << "needs three ranks";
  const Communicator own;
  const int last = world().size() - 1;
  const std::string odd = fmt::format("rank {} on a host", last);
  Whereabouts where;
  std::atomic<int> asked = 0;
  where.enter("waiting", 7);
  {
    CommThread thread(own.comm, false);
    if (world().rank() != last) thread.watch(watch_on(own.comm, where, asked));
    if (world().rank() == 0) {
      thread.set_deadline(0.2);
      EXPECT_THAT(error_of_running(thread, std::make_shared<Endless>()), HasSubstr(odd + ": no answer"));
      EXPECT_THAT(thread.ask_others().failure.value().what(), HasSubstr(odd));
    }
    world().barrier();
    if (world().rank() == 1) {
      EXPECT_EQ(thread.ask_others().silent, std::vector<std::string>{odd});
    }
    world().barrier();
  }
}

}  // namespace
}  // namespace lockstep
