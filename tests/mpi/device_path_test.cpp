// A run on a GPU, where there is none: the CPU stands in and every read of a value by the host is counted; LibTorch's
// `meta` device stands in, which has shapes but no values to read.
#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/library.h>
#include <torch/optim/sgd.h>

#include <atomic>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "../unit/temporary_folder.h"
#include "agreed.h"
#include "comm/mpi/work.h"
#include "lockstep/cifar10.h"
#include "lockstep/model.h"
#include "lockstep/net.h"
#include "lockstep/trainer.h"
#include "lockstep/weights.h"
#include "train/batches.h"
#include "train/device_path.h"
#include "train/gradients.h"
#include "train/plan.h"

namespace lockstep {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

// What `Tensor::item` and everything built on it come to.
std::atomic<int64_t> reads = 0;

std::unique_ptr<at::ObserverContext> count_read(const at::RecordFunction& function) {
  if (std::string(function.name()) == "aten::_local_scalar_dense") ++reads;
  return nullptr;
}

class CountingReads {
 public:
  CountingReads()
      : handle_(at::addGlobalCallback(at::RecordFunctionCallback(&count_read)
                                          .scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION}))) {
    reads = 0;
  }
  ~CountingReads() { at::removeCallback(handle_); }

 private:
  at::CallbackHandle handle_;
};

// One folder of images for all ranks and tests.
const std::string& data() {
  static const auto folder = std::make_shared<test::TemporaryFolder>();
  static std::string path;
  if (!path.empty()) return path;
  world().together([&] {
    if (world().rank() == 0) synthesize_cifar10(folder->path() + "/data", {.train_images = 320, .test_images = 40});
  });
  path = world().all_gather(folder->path() + "/data")[0];
  return path;
}

Settings settings() {
  Settings settings;
  settings.data_dir = data();
  settings.train_global_batch = 24;
  settings.train_max_steps = 12;
  settings.optim_momentum = 0.9;
  settings.log_every_steps = 4;
  settings.eval_every_epochs = 0;
  settings.ddp_audit_every = 0;
  return settings;
}

struct Steps {
  explicit Steps(const Settings& of, at::Device device, std::shared_ptr<Net> trained = make_net("sjnet"))
      : settings(of),
        set(Cifar10::open(Cifar10::find(settings.data_dir), Cifar10::Split::train)),
        plan(make_plan(settings, world().size(), set.size())),
        net(std::move(trained)),
        batches(set, device, Batches::Where::device, at::MemoryFormat::Contiguous, {}),
        clock(world()) {
    move_net(*net, device, settings.train_memory_format);
    gradients.emplace(world(), net, settings, plan, clock, batches, Gradients::Reads::when_asked);
    optimizer.emplace(net->parameters(), torch::optim::SGDOptions(0.01).momentum(0.9).weight_decay(1e-4));
    std::vector<int64_t> order(static_cast<size_t>(plan.images_per_epoch));
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i) % set.size();
    gradients->deal().begin_epoch(order);
  }

  void step(int64_t i, const std::function<void(at::Tensor&)>& change_loss = nullptr) {
    clock.step_begins(1);
    gradients->step({.epoch = 0, .in_epoch = i, .in_run = i + 1},
                    {.midway = nullptr, .change_loss = change_loss, .plain = change_loss != nullptr});
    gradients->clip("");
    optimizer->step();
    clock.step_ends();
  }

  Settings settings;
  Cifar10 set;
  Plan plan;
  std::shared_ptr<Net> net;
  Batches batches;
  StepClock clock;
  std::optional<Gradients> gradients;
  std::optional<torch::optim::SGD> optimizer;
};

TEST(DevicePath, AStepReadsNothingBack) {
  for (const int64_t virtual_ranks : {0, 4}) {
    if (virtual_ranks > 0 && (virtual_ranks % world().size() != 0)) continue;
    Settings of = settings();
    of.train_virtual_ranks = virtual_ranks;
    of.train_clip_norm = 1;
    of.train_accumulate = 2;
    Steps steps(of, at::kCPU);
    steps.step(0);  // makes the buckets
    const CountingReads counting;
    for (int64_t i = 1; i < 18; ++i) steps.step(i % 12);
    EXPECT_EQ(reads, 0) << virtual_ranks;
    EXPECT_EQ(steps.gradients->replayed(), virtual_ranks == 0);

    // The count sees what it shall see.
    steps.step(6, [](at::Tensor& loss) { loss.item<float>(); });
    EXPECT_EQ(reads, 1);
    steps.step(7, [](at::Tensor& loss) { EXPECT_TRUE(at::is_nonzero(loss > 0)); });
    EXPECT_EQ(reads, 2);
    steps.gradients->check("");
    EXPECT_GT(steps.gradients->mean_loss(), 0);
  }
}

// A network on the meta device: LibTorch's modules cannot be moved there, and convolutions have no kernel there in C++.
struct MetaNet : Net {
  MetaNet() {
    const auto there = at::TensorOptions(at::kFloat).device(at::kMeta);
    first = register_parameter("first", at::empty({16, 3 * 32 * 32}, there));
    second = register_parameter("second", at::empty({10, 16}, there));
  }
  at::Tensor forward(at::Tensor images) override {
    return at::matmul(at::matmul(images.flatten(1), first.t()).sigmoid(), second.t());
  }
  at::Tensor first, second;
};

// c10d's collectives on tensors that have no values: over at once. They are operators, which know their kernel by
// device.
void done_at_once(const c10::OperatorHandle& op, c10::Stack* stack) {
  const size_t arguments = op.schema().arguments().size();
  const auto tensors = (*stack)[stack->size() - arguments].toTensorVector();
  stack->resize(stack->size() - arguments);
  c10::intrusive_ptr<c10d::Work> work =
      c10::make_intrusive<FinishedWork>(world().rank(), c10d::OpType::UNKNOWN, tensors);
  if (op.schema().returns().size() == 2) stack->emplace_back(tensors);
  stack->emplace_back(std::move(work));
}

TORCH_LIBRARY_IMPL(c10d, Meta, kernels) {
  for (const char* name : {"allreduce_", "broadcast_", "send", "recv_"}) {
    kernels.impl(name, torch::CppFunction::makeFromBoxedFunction<&done_at_once>());
  }
}

TEST(DevicePath, AStepNeedsNoValueOfTheDevice) {
  Settings of = settings();
  of.train_clip_norm = 1;
  Steps first(of, at::kMeta, std::make_shared<MetaNet>());
  first.step(0);  // before the second, c10d's Reducer reads once in which order it makes its buckets again
  if (4 % world().size() != 0) return;
  of.train_virtual_ranks = 4;
  Steps steps(of, at::kMeta, std::make_shared<MetaNet>());
  for (int64_t i = 0; i < 3; ++i) steps.step(i);
  EXPECT_ANY_THROW(steps.step(3, [](at::Tensor& loss) { loss.item<float>(); }));
}

TEST(DevicePath, FullStepsAreReplayedOnceTheFirstAreDone) {
  Settings of = settings();
  of.train_accumulate = 2;
  of.train_clip_norm = 0.5;
  Settings without = of;
  without.train_cuda_graph = false;
  at::manual_seed(5);
  Steps replayed(of, at::kCPU);
  at::manual_seed(5);
  Steps plain(without, at::kCPU);
  const int64_t last = replayed.plan.steps_per_epoch - 1;  // 8 of 24 images
  for (int64_t i = 0; i < 3 * replayed.plan.steps_per_epoch; ++i) {
    const int64_t step = i % replayed.plan.steps_per_epoch;
    // The loss of one step is doubled, as somebody who watches it might.
    const auto twice = [](at::Tensor& loss) { loss = loss * 2; };
    const auto change = i == 20 ? std::function<void(at::Tensor&)>(twice) : nullptr;
    replayed.step(step, change);
    plain.step(step, change);
    EXPECT_EQ(replayed.gradients->replayed(), i >= 11 && step != last && i != 20) << i;
    EXPECT_FALSE(plain.gradients->replayed());
    replayed.gradients->check("");
    plain.gradients->check("");
    EXPECT_EQ(replayed.gradients->mean_loss(), plain.gradients->mean_loss()) << i;
  }
  const auto others = state_dict(*plain.net);
  for (const auto& [name, value] : state_dict(*replayed.net)) {
    for (const auto& [other, reference] : others) {
      if (name != other) continue;
      EXPECT_TRUE(at::equal(value, reference)) << name;
    }
  }
}

TEST(DevicePath, WhatWasNotTriedInARecordedStepIsNotRecorded) {
  Settings of = settings();
  EXPECT_TRUE(records_steps(of));
  of.ddp_wire = "bf16";
  Steps steps(of, at::kCPU);
  for (int64_t i = 0; i < 13; ++i) {
    steps.step(i);
    EXPECT_FALSE(steps.gradients->replayed());
  }
}

TEST(DevicePath, AReplayedStepThatIsNotFiniteIsNamed) {
  Steps steps(settings(), at::kCPU);
  for (int64_t i = 0; i < 13; ++i) {
    if (i == 12) {
      const at::NoGradGuard no_grad;
      steps.net->parameters()[0].fill_(std::numeric_limits<float>::quiet_NaN());
    }
    steps.step(i);
  }
  EXPECT_TRUE(steps.gradients->replayed());
  const std::string said = test::agreed_error(ExitCode::diverged, 0, [&] { steps.gradients->check(""); });
  EXPECT_EQ(said, "the loss on rank 0 is not finite in step 13");
}

// A whole run on both ways leaves the same weights, byte for byte, and logs the same losses.
TEST(DevicePath, AWholeRunGivesTheBitsOfTheCpusWay) {
  for (const char* format : {"contiguous", "channels_last"}) {
    for (const char* precision : {"fp32", "bf16"}) {
      if (world().size() > 2 && (format != std::string("contiguous") || precision != std::string("fp32"))) continue;
      const test::TemporaryFolder folder;
      std::vector<std::string> digests;
      for (const bool as_on_a_gpu : {false, true}) {
        TrainRequest request;
        request.settings = settings();
        request.settings.train_precision = precision;
        request.settings.train_memory_format = format;
        request.settings.train_clip_norm = 0.5;
        request.settings.eval_every_epochs = 1;
        request.settings.train_max_steps = 28;  // over epochs, more than half of them replayed
        request.out = world().all_gather(folder.path())[0] + (as_on_a_gpu ? "/gpu" : "/cpu");
        request.quiet = true;
        request.as_on_a_gpu = as_on_a_gpu;
        const TrainResult result = train(world(), request);
        std::string digest = fmt::format("{} {}", result.last->loss_sum, result.last->accuracy);
        if (world().rank() == 0) {
          for (const auto& [name, tensor] : load_pth(result.out + "/final.pth")) {
            digest += fmt::format(" {}", tensor.sum().item<double>());
          }
        }
        digests.push_back(digest);
      }
      EXPECT_EQ(digests[0], digests[1]) << format << " " << precision;
    }
  }
}

TEST(DevicePath, ALossThatIsNotFiniteIsNamedWhenItIsRead) {
  const int odd = world().size() - 1;
  Steps steps(settings(), at::kCPU);
  for (int64_t i = 0; i < 5; ++i) {
    steps.step(i, [&](at::Tensor& loss) {
      if (i == 2 && world().rank() == odd) loss = loss * std::numeric_limits<double>::quiet_NaN();
    });
  }
  const std::string said =
      test::agreed_error(ExitCode::diverged, odd, [&] { steps.gradients->check("runs/x/sjnet_0.pth"); });
  EXPECT_EQ(said, fmt::format("the loss on rank {} is not finite in step 3", odd));
}

TEST(DevicePath, AnInfiniteLossStopsToo) {
  Steps steps(settings(), at::kCPU);
  steps.step(0, [&](at::Tensor& loss) { loss = loss / at::zeros({}); });
  const std::string said = test::agreed_error(ExitCode::diverged, 0, [&] { steps.gradients->check(""); });
  EXPECT_THAT(said, HasSubstr("the loss on rank 0 is not finite in step 1"));
}

TEST(Batches, HaveTheSameBitsOnTheDeviceAndOnTheHost) {
  const auto set = Cifar10::open(Cifar10::find(data()), Cifar10::Split::train);
  const std::vector<Augmentation> augmentations = {
      {}, {.normalize = true}, {.normalize = true, .flip = Augmentation::Flip::alternating, .translate = 3, .seed = 5}};
  for (const Augmentation& augmentation : augmentations) {
    const Batches on_host(set, at::kCPU, Batches::Where::host, at::MemoryFormat::ChannelsLast, augmentation);
    const Batches on_device(set, at::kCPU, Batches::Where::device, at::MemoryFormat::ChannelsLast, augmentation);
    const std::vector<int64_t> indices = {319, 0, 7, 7, 200};
    at::Tensor images, labels, same_images, same_labels;
    on_host.load(indices, 1, images, labels);
    on_device.load(indices, 1, same_images, same_labels);
    EXPECT_TRUE(at::equal(images, same_images));
    EXPECT_TRUE(at::equal(labels, same_labels));
    EXPECT_EQ(images.strides(), same_images.strides());
  }
}

}  // namespace
}  // namespace lockstep
