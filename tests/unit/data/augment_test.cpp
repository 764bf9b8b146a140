#include "lockstep/augment.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/reflection_pad2d.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <numeric>

#include "../temporary_folder.h"

namespace lockstep {
namespace {

using Flip = Augmentation::Flip;

Cifar10 images_of_a_folder(const test::TemporaryFolder& folder) {
  synthesize_cifar10(folder.path() + "/data", {.train_images = 200, .test_images = 10});
  return Cifar10::open(folder.path() + "/data", Cifar10::Split::train);
}

TEST(BatchPass, GivesTorchvisionsToTensorAndNormalizeInEitherLayout) {
  const test::TemporaryFolder folder;
  const Cifar10 set = images_of_a_folder(folder);
  const std::vector<int64_t> indices = {3, 199, 0, 3};
  at::Tensor unit, labels;
  set.batch(indices, unit, labels);
  const at::Tensor mean = at::tensor(at::ArrayRef<float>(Augmentation::kMean)).view({1, 3, 1, 1});
  const at::Tensor deviation = at::tensor(at::ArrayRef<float>(Augmentation::kStd)).view({1, 3, 1, 1});
  for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
    at::Tensor images, same_labels;
    BatchPass({}, format).load(set, indices, 0, images, same_labels);
    EXPECT_TRUE(images.equal(unit));
    EXPECT_TRUE(images.is_contiguous(format));
    EXPECT_TRUE(same_labels.equal(labels));
    const void* memory = images.data_ptr();
    BatchPass({.normalize = true}, format).load(set, indices, 0, images, same_labels);
    EXPECT_TRUE(images.equal((unit - mean) / deviation));
    EXPECT_EQ(images.data_ptr(), memory);  // filled in place
  }
}

TEST(BatchPass, MirrorsAndShiftsWithReflectedEdges) {
  const test::TemporaryFolder folder;
  const Cifar10 set = images_of_a_folder(folder);
  const Augmentation augmentation{.flip = Flip::random, .translate = 4, .seed = 3};
  std::vector<int64_t> indices(50);
  std::iota(indices.begin(), indices.end(), 0);
  at::Tensor unit, labels, images;
  set.batch(indices, unit, labels);
  BatchPass(augmentation).load(set, indices, 7, images, labels);
  const at::Tensor padded = at::reflection_pad2d(unit, {4, 4, 4, 4});
  for (const int64_t i : indices) {
    const Placement place = placement(augmentation, 7, i);
    at::Tensor expected = padded[i].narrow(1, 4 + place.down, 32).narrow(2, 4 + place.right, 32);
    if (place.mirrored) expected = expected.flip({2});
    EXPECT_TRUE(images[i].equal(expected)) << i;
  }
}

TEST(Placement, OfAlternatingFlipsShowsEachImageBothWaysInTwoEpochs) {
  const Augmentation augmentation{.flip = Flip::alternating, .seed = 1};
  int mirrored = 0;
  for (int64_t i = 0; i < 1000; ++i) {
    EXPECT_NE(placement(augmentation, 0, i).mirrored, placement(augmentation, 1, i).mirrored);
    EXPECT_EQ(placement(augmentation, 0, i).mirrored, placement(augmentation, 2, i).mirrored);
    mirrored += placement(augmentation, 0, i).mirrored ? 1 : 0;
  }
  EXPECT_NEAR(mirrored, 500, 60);  // four standard deviations
}

TEST(Placement, TakesAllShiftsEquallyOftenAndDependsOnSeedEpochAndImage) {
  Augmentation augmentation{.flip = Flip::random, .translate = 2, .seed = 1};
  std::array<int, 5> down{}, right{};
  std::array<int, 3> changed{};
  constexpr int kImages = 5000;
  for (int64_t i = 0; i < kImages; ++i) {
    const Placement place = placement(augmentation, 3, i);
    ++down.at(static_cast<size_t>(place.down + 2));
    ++right.at(static_cast<size_t>(place.right + 2));
    const auto differs = [&](const Placement& other) {
      return other.down != place.down || other.right != place.right || other.mirrored != place.mirrored ? 1 : 0;
    };
    Augmentation another = augmentation;
    another.seed = 2;
    changed[0] += differs(placement(another, 3, i));
    changed[1] += differs(placement(augmentation, 4, i));
    changed[2] += differs(placement(augmentation, 3, i + 1));
  }
  for (size_t way = 0; way < 5; ++way) {
    EXPECT_NEAR(down[way], kImages / 5, 120);
    EXPECT_NEAR(right[way], kImages / 5, 120);
  }
  for (const int count : changed) EXPECT_NEAR(count, kImages * 0.98, 60);  // one way in 50 is the same by chance
}

}  // namespace
}  // namespace lockstep
