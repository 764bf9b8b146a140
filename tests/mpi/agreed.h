// Expecting one AgreedError on every rank.
#pragma once

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "mpi_main.h"

namespace lockstep::test {

/// Collective: runs `work`, which throws the same AgreedError with a hint on every rank; gives its message. `rank` is
/// the one that reports it.
inline std::string agreed_error(ExitCode code, int rank, const std::function<void()>& work) {
  std::string message = "nothing was thrown";
  std::string all_of_it = message;
  try {
    work();
  } catch (const AgreedError& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    EXPECT_EQ(error.rank(), rank) << error.what();
    EXPECT_NE(error.hint(), "") << error.what();
    message = error.what();
    all_of_it = fmt::format("{} {} {} {}", static_cast<int>(error.code()), error.rank(), message, error.hint());
  }
  EXPECT_THAT(world().all_gather(all_of_it), testing::Each(all_of_it));
  return message;
}

}  // namespace lockstep::test
