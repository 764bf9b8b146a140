// Sees to it that no rank stands still unnoticed, also where no other rank waits for it.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

namespace lockstep {

class World;

/// A thread that ends the job when this rank has been doing one thing (World::doing) for longer than the deadline: a
/// file system that hangs, a device that does not answer. While the rank waits for others the comm thread knows better
/// who is missing, so this one then only steps in when that does not end the job. A rank that waits for its GPU may
/// wait for other ranks in truth: all are asked, and those that do not answer are named.
class Watchdog {
 public:
  explicit Watchdog(World& world);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  void loop();

  World& world_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace lockstep
