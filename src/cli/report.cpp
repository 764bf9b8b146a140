#include "cli/report.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "comm/explain.h"
#include "lockstep/world.h"
#include "store/mapped_file.h"
#include "world/last_words.h"

namespace lockstep {

int run_job(World& world, const std::function<int()>& work) {
  const LastWords last_words(world, &current_error);
  const LostPages lost_pages([&world](const Error& error) {
    let_lower_ranks_speak(world.rank());
    end_job(world, error);
  });
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
