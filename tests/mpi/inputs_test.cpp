#include "train/inputs.h"

#include <ATen/ops/arange.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "agreed.h"
#include "data/file_digests.h"
#include "lockstep/cifar10.h"
#include "store/digest.h"

namespace lockstep {
namespace {

using test::agreed_error;
using test::alone;
using test::last;
using testing::HasSubstr;

// Data that rank 0 makes and all ranks see; gone with it.
class Inputs : public testing::Test {
 protected:
  Inputs() {
    std::string name = (std::filesystem::temp_directory_path() / "lockstep-inputs-XXXXXX").string();
    if (world().rank() == 0) {
      if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
      synthesize_cifar10(name, {.train_images = 50, .test_images = 12});
    }
    folder_ = world().all_gather(name)[0];
  }
  ~Inputs() override {
    world().barrier();
    if (world().rank() == 0) std::filesystem::remove_all(folder_);
    if (own_ != folder_) std::filesystem::remove_all(own_);
  }

  // A folder of this rank's own with another byte in one file.
  void change(const std::string& file) {
    own_ = folder_ + std::to_string(world().rank());
    std::filesystem::copy(folder_, own_);
    std::fstream stream(own_ + "/" + file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(-1, std::ios::end);
    stream.put('\x77');
  }
  Cifar10 train() const { return Cifar10::open(own_.empty() ? folder_ : own_, Cifar10::Split::train); }
  Cifar10 test() const { return Cifar10::open(own_.empty() ? folder_ : own_, Cifar10::Split::test); }

  std::string folder_;
  std::string own_;
};

TEST_F(Inputs, RanksThatDivideTheReadingKnowTheDigestOfEveryFile) {
  if (world().size() == 2)
    std::this_thread::sleep_for(std::chrono::milliseconds(2100));  // younger files are not shared
  const Cifar10 train_set = train();
  const Cifar10 test_set = test();
  agree_on_data(world(), {&train_set, &test_set});
  for (const Cifar10* set : {&train_set, &test_set}) {
    for (const Cifar10::Source& file : set->sources()) {
      EXPECT_EQ(known_digest(file.identity), digest_bytes(std::string(file.bytes.begin(), file.bytes.end())))
          << file.path;
    }
  }
  EXPECT_THAT(world().all_gather(train_set.digest()), testing::Each(train_set.digest()));
  agree_on_data(world(), {&train_set, &test_set});
}

TEST_F(Inputs, AFileThatDiffersIsNamedWithItsRank) {
  if (alone()) return;
  if (world().rank() == last()) change("data_batch_2.bin");
  const Cifar10 set = train();
  const std::string message = agreed_error(ExitCode::launch, last(), [&] { agree_on_data(world(), {&set}); });
  EXPECT_THAT(message, HasSubstr(fmt::format("rank {} (host {}) reads another data_batch_2.bin than rank 0", last(),
                                             world().host())));
  EXPECT_THAT(message, HasSubstr(folder_ + "/data_batch_2.bin ("));
  EXPECT_THAT(message, HasSubstr(folder_ + std::to_string(last()) + "/data_batch_2.bin ("));
}

TEST_F(Inputs, WeightsOfOtherBitsAreNamedWithTheirFile) {
  const NamedTensors same = {{"a", at::arange(10)}};
  agree_on_weights(world(), fmt::format("copy-{}.pth", world().rank()), same);
  if (alone()) return;
  const NamedTensors mine = {{"a", at::arange(10) + (world().rank() == last() ? 1 : 0)}};
  const std::string path = fmt::format("folder/{}.pth", world().rank());
  const std::string message = agreed_error(ExitCode::launch, last(), [&] { agree_on_weights(world(), path, mine); });
  EXPECT_THAT(message, HasSubstr(fmt::format("rank {} has folder/{}.pth (", last(), last())));
  EXPECT_THAT(message, HasSubstr("rank 0 folder/0.pth ("));
}

}  // namespace
}  // namespace lockstep
