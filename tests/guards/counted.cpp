// counted PIECE TIMES FOLDER: does one piece of our own scalar code so often, for a tool that counts its instructions.
// It links no LibTorch, whose start alone takes minutes under such a tool and whose code depends on the CPU.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "lockstep/event_writer.h"
#include "store/crc32.h"

int main(int argc, char** argv) {
  if (argc != 4) return 64;
  const std::string_view piece = argv[1];
  const long times = std::strtol(argv[2], nullptr, 10);
  if (piece == "event_line") {
    lockstep::EventWriter events(argv[3]);
    for (long i = 0; i < times; ++i) events.scalar("train_loss", i, 2.3);
  } else if (piece == "crc32c_64k") {
    std::string bytes(64 << 10, 'x');
    unsigned sum = 0;
    for (long i = 0; i < times; ++i) {
      bytes[0] = static_cast<char>(i);
      sum += lockstep::crc32c(bytes);
    }
    std::printf("%u\n", sum);
  } else {
    return 64;
  }
  return 0;
}
