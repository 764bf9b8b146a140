#include "cli/report.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <thread>

#include "comm/explain.h"
#include "lockstep/world.h"
#include "world/last_words.h"

namespace lockstep {

Error current_error() {
  try {
    throw;
  } catch (const Error& error) {
    return error;
  } catch (const c10::Error& error) {
    return explain(error);
  } catch (const std::bad_alloc&) {
    return Error(ExitCode::internal, "out of memory", "use a smaller batch, or fewer ranks on a host");
  } catch (const std::exception& error) {
    return Error(ExitCode::internal, error.what());
  }
}

int run_job(World& world, const std::function<int()>& work) {
  const LastWords last_words(world, &current_error);
  try {
    return work();
  } catch (const AgreedError& error) {
    if (world.rank() == error.rank()) print_error(error, place_of(world));
    return static_cast<int>(error.code());
  } catch (...) {
    const Error error = current_error();
    // Ranks that fail for one reason fail together: the lowest speaks, and its abort ends the others while they wait
    // here.
    std::this_thread::sleep_for(std::chrono::milliseconds(100) * std::min(world.rank(), 20));
    end_job(world, error);
  }
}

}  // namespace lockstep
