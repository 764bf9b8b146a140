// Exact evaluation over all ranks.
#pragma once

#include <array>
#include <cstdint>

#include "lockstep/augment.h"

namespace lockstep {

class Cifar10;
class Net;
class World;

struct Evaluation {
  double loss_sum = 0;   ///< sum of the batch means, the tutorial's test loss
  double loss_mean = 0;  ///< mean over the images
  double accuracy = 0;   ///< fraction of images whose largest logit is the label's
  int64_t images = 0;
  int64_t batches = 0;
  std::array<int64_t, 10> class_correct = {};  ///< images of each class that were named rightly
  std::array<int64_t, 10> class_images = {};
};

/// Test-time augmentation: what a net's logits are averaged over. mirror: the image and its mirror image. shifts: half
/// from these two, half from the images moved by one pixel up and left and down and right, edges reflected, and their
/// mirror images. Keller Jordan, arXiv:2404.00498.
enum class Tta { none, mirror, shifts };

/// Collective: cross-entropy and accuracy of `net` over every image of `data`, each counted once. Images are cut into
/// fixed batches of `batch`, in order; batch i is done by rank i mod world size; the batch results are added in batch
/// order in double. So every digit is the same on every rank and at every rank count, given the same threads per rank.
/// The net is on World::device. Leaves its mode as it was. `shown`: how the images are, for instance normalised as in
/// training. Ranks must give the same images (compared byte by byte once a process) in the same way, and a net of the
/// same values (not compared). Throws AgreedError (launch) that names the ranks that give others.
Evaluation evaluate(World& world, Net& net, const Cifar10& data, int64_t batch, const Augmentation& shown = {},
                    Tta tta = Tta::none);

}  // namespace lockstep
