#include "store/mapped_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "../temporary_folder.h"

namespace lockstep {
namespace {

constexpr std::size_t kSize = 100'000;

void say_and_exit(const Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  _exit(static_cast<int>(error.code()));
}

std::string file_of_zeros(const test::TemporaryFolder& folder) {
  const std::string path = folder / "file";
  std::ofstream(path) << std::string(kSize, '\0');
  return path;
}

uint8_t touch(const uint8_t* byte) { return *static_cast<const volatile uint8_t*>(byte); }

TEST(LostPages, AFileThatIsCutShortIsNamed) {
  const test::TemporaryFolder folder;
  const std::string path = file_of_zeros(folder);
  EXPECT_EXIT(
      {
        const LostPages watch(&say_and_exit);
        const MappedFile file(path, open_file(path, O_RDONLY), kSize);
        if (::truncate(path.c_str(), 10'000) != 0) _exit(1);
        touch(file.bytes() + 9'999);
        touch(file.bytes() + kSize - 1);
      },
      testing::ExitedWithCode(65), "file was cut short while it was in use: 10000 bytes, 100000 when it was opened");
}

TEST(LostPages, AFileThatIsDeletedOrReplacedStaysAsItWas) {
  const test::TemporaryFolder folder;
  const std::string path = file_of_zeros(folder);
  const LostPages watch(&say_and_exit);
  const MappedFile file(path, open_file(path, O_RDONLY), kSize);
  std::ofstream(path + "2") << "short";
  ASSERT_EQ(::rename((path + "2").c_str(), path.c_str()), 0);
  EXPECT_EQ(touch(file.bytes() + kSize - 1), 0);
  ASSERT_EQ(::unlink(path.c_str()), 0);
  EXPECT_EQ(touch(file.bytes() + kSize / 2), 0);
}

TEST(LostPages, LeavesAnyOtherSigbusAlone) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer takes such a signal for itself";
#endif
  const test::TemporaryFolder folder;
  const std::string path = file_of_zeros(folder);
  EXPECT_EXIT(
      {
        const LostPages watch(&say_and_exit);
        const MappedFile file(path, open_file(path, O_RDONLY), 4'096);
        const Descriptor other = open_file(path, O_RDWR);
        void* mapped = ::mmap(nullptr, kSize, PROT_READ, MAP_SHARED, other.number(), 0);
        if (::ftruncate(other.number(), 4'096) != 0) _exit(1);
        touch(static_cast<const uint8_t*>(mapped) + 50'000);
      },
      testing::KilledBySignal(SIGBUS), "");
  EXPECT_EXIT(
      {
        const LostPages watch(&say_and_exit);
        ::raise(SIGBUS);
      },
      testing::KilledBySignal(SIGBUS), "");
}

}  // namespace
}  // namespace lockstep
