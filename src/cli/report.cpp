#include "cli/report.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <thread>

#include "lockstep/world.h"

namespace lockstep {

void print_error(const Error& error, const std::string& where) {
  std::fflush(stdout);
  const std::string hint = error.hint().empty()
                               ? "run again; if it stays, report it with this message and `lockstep --version`"
                               : error.hint();
  const std::string text =
      fmt::format("lockstep: error: {}{}{}\nhint: {}\n", where, where.empty() ? "" : ": ", error.what(), hint);
  // One write, so that lines of other ranks do not come between; there is nothing to do when stderr is gone.
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text.data(), text.size());
}

Error current_error() {
  try {
    throw;
  } catch (const Error& error) {
    return error;
  } catch (const c10::Error& error) {
    return Error(ExitCode::internal, error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return Error(ExitCode::internal, "out of memory", "use a smaller batch, or fewer ranks on a host");
  } catch (const std::exception& error) {
    return Error(ExitCode::internal, error.what());
  }
}

int run_job(World& world, const std::function<int()>& work) {
  const std::string where = world.size() > 1 ? fmt::format("rank {} on {}", world.rank(), world.host()) : "";
  try {
    return work();
  } catch (const AgreedError& error) {
    if (world.rank() == error.rank()) print_error(error, where);
    return static_cast<int>(error.code());
  } catch (...) {
    const Error error = current_error();
    // Ranks that fail for one reason fail together: the lowest speaks, and its abort ends the others while they wait
    // here.
    std::this_thread::sleep_for(std::chrono::milliseconds(100) * std::min(world.rank(), 20));
    print_error(error, where);
    world.abort(static_cast<int>(error.code()));
  }
}

}  // namespace lockstep
