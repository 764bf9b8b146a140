// Whole runs on GPUs: recorded steps, and runs that stop and go on.
#include <gtest/gtest.h>

#include <string>

#include "../../unit/temporary_folder.h"
#include "gpu_world.h"
#include "lockstep/cifar10.h"
#include "lockstep/trainer.h"
#include "lockstep/world.h"
#include "store/digest.h"
#include "store/files.h"

namespace lockstep {
namespace {

// 13 full steps an epoch, and one of 8 images.
class Training : public testing::Test {
 protected:
  Training() : folder_(world().all_gather(own_.path())[0]) {
    world().together([&] {
      if (world().rank() == 0) synthesize_cifar10(folder_ + "/data", {.train_images = 320, .test_images = 40});
    });
    sgd_.data_dir = folder_ + "/data";
    sgd_.data_flip = "random";
    sgd_.train_epochs = 4;
    sgd_.train_global_batch = 24;
    sgd_.optim_momentum = 0.9;
    sgd_.optim_schedule = "linear";
    sgd_.log_every_steps = 7;
    muon_ = sgd_;
    muon_.model_name = "airbench94";
    muon_.train_precision = "bf16";
    muon_.train_memory_format = "channels_last";
    muon_.optim_name = "muon";
    muon_.optim_lr = 0.01;
  }

  // The digest of the weights that a run leaves.
  std::string outcome(const std::string& name, const Settings& settings, const std::string& resume = "") {
    TrainRequest request;
    request.settings = settings;
    request.out = folder_ + "/" + name;
    request.resume = resume;
    request.quiet = true;
    train(world(), request);
    return world().all_gather(world().rank() == 0 ? digest_bytes(read_file(request.out + "/final.pth")) : "")[0];
  }

  test::TemporaryFolder own_;
  std::string folder_;
  Settings sgd_;
  Settings muon_;
};

TEST_F(Training, RecordedStepsHaveTheBitsOfPlainOnes) {
  for (Settings* settings : {&sgd_, &muon_}) {
    settings->train_clip_norm = 0.5;
    for (const int64_t passes : {1, 2}) {
      settings->train_accumulate = passes;
      const std::string name = settings->optim_name + std::to_string(passes);
      settings->train_cuda_graph = true;
      const std::string recorded = outcome(name + "-recorded", *settings);
      settings->train_cuda_graph = false;
      EXPECT_EQ(outcome(name + "-plain", *settings), recorded) << name;
    }
  }
}

TEST_F(Training, ARunThatStoppedGoesOnWithTheSameBits) {
  for (Settings* settings : {&sgd_, &muon_}) {
    const std::string& name = settings->optim_name;
    const std::string whole = outcome(name + "-whole", *settings);
    settings->train_max_steps = 31;
    outcome(name + "-parts", *settings);
    settings->train_max_steps = 0;
    EXPECT_EQ(outcome(name + "-parts", *settings, "auto"), whole) << name;
  }
}

}  // namespace
}  // namespace lockstep
