#include "lockstep/evaluator.h"

#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/stack.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "ddp/agreement.h"
#include "lockstep/cifar10.h"
#include "lockstep/net.h"
#include "lockstep/world.h"
#include "train/inputs.h"
#include "train/tta.h"

namespace lockstep {

Evaluation evaluate(World& world, Net& net, const Cifar10& data, int64_t batch, const Augmentation& shown, Tta tta) {
  agree(world, "how to evaluate",
        {fmt::format("batches of {}", batch), fmt::format("test-time augmentation {}", static_cast<int>(tta)),
         shown.normalize ? "normalised images" : "images as they are"});
  agree_on_data(world, {&data});
  const c10::NoGradGuard no_gradients;
  const bool was_training = net.is_training();
  net.eval();

  Evaluation result;
  result.images = data.size();
  result.batches = (data.size() + batch - 1) / batch;
  // One place a batch, zero but on the rank that fills it: the sum over ranks is exact whatever its order.
  std::vector<double> losses(static_cast<size_t>(result.batches), 0.0);
  std::array<int64_t, 20> counts = {};  // correct by class, then images by class
  const BatchPass pass(shown);
  std::vector<int64_t> indices;
  at::Tensor images;
  at::Tensor labels;
  // Read when all batches are done: a GPU's results would be waited for one by one.
  std::vector<at::Tensor> means;
  std::vector<at::Tensor> named;
  for (int64_t i = world.rank(); i < result.batches; i += world.size()) {
    indices.resize(static_cast<size_t>(std::min(batch, data.size() - i * batch)));
    std::iota(indices.begin(), indices.end(), i * batch);
    world.still_doing();
    pass.load(data, indices, 0, images, labels);
    const at::Tensor logits = average_logits(net, images.to(world.device()), tta);
    means.push_back(at::cross_entropy_loss(logits, labels.to(world.device())));
    named.push_back(logits.argmax(1));
  }
  net.train(was_training);
  if (!means.empty()) {
    const at::Tensor all_means = at::stack(means).cpu();
    const at::Tensor all_named = at::cat(named).cpu();
    const auto* mean = all_means.const_data_ptr<float>();
    const auto* named_class = all_named.const_data_ptr<int64_t>();
    for (int64_t i = world.rank(); i < result.batches; i += world.size()) {
      losses[static_cast<size_t>(i)] = *mean++;
      for (int64_t k = i * batch; k < std::min((i + 1) * batch, data.size()); ++k) {
        const auto label = static_cast<size_t>(data.label(k));
        counts[label] += *named_class++ == data.label(k) ? 1 : 0;
        counts[10 + label] += 1;
      }
    }
  }

  world.sum(losses);
  world.sum(counts);
  for (int64_t i = 0; i < result.batches; ++i) {
    const double loss = losses[static_cast<size_t>(i)];
    result.loss_sum += loss;
    result.loss_mean += loss * static_cast<double>(std::min(batch, data.size() - i * batch));
  }
  result.loss_mean /= static_cast<double>(result.images);
  std::copy_n(counts.begin(), 10, result.class_correct.begin());
  std::copy_n(counts.begin() + 10, 10, result.class_images.begin());
  result.accuracy =
      static_cast<double>(std::accumulate(result.class_correct.begin(), result.class_correct.end(), int64_t{0})) /
      static_cast<double>(result.images);
  return result;
}

}  // namespace lockstep
