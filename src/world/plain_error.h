// What any exception is to a person, as far as that is the same everywhere.
#pragma once

#include <exception>

#include "lockstep/error.h"

namespace lockstep {

/// `error` itself if it is an Error; memory of the host that is used up and threads or files that the system refuses,
/// with a hint; else ExitCode::internal with the exception's text, without LibTorch's stack trace.
Error plain_error(const std::exception& error);

}  // namespace lockstep
