// Expecting lockstep::Error with its exit code, words of its message and a hint.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <initializer_list>
#include <string>

#include "lockstep/error.h"

namespace lockstep::test {

template <typename Work>
void expect_error(ExitCode code, std::initializer_list<std::string> words, Work work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    for (const std::string& word : words) EXPECT_THAT(std::string(error.what()), testing::HasSubstr(word));
    EXPECT_NE(error.hint(), "") << error.what();
    return;
  }
  ADD_FAILURE() << "nothing was thrown";
}

}  // namespace lockstep::test
