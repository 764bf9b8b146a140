#include "lockstep/evaluator.h"

#include <ATen/ops/argmax.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <numeric>

#include "lockstep/cifar10.h"
#include "lockstep/net.h"
#include "lockstep/world.h"

namespace lockstep {

Evaluation evaluate(World& world, Net& net, const Cifar10& data, int64_t batch) {
  const c10::NoGradGuard no_gradients;
  const bool was_training = net.is_training();
  net.eval();

  Evaluation result;
  result.images = data.size();
  result.batches = (data.size() + batch - 1) / batch;
  // One place a batch, zero but on the rank that fills it: the sum over ranks is exact whatever its order.
  std::vector<double> losses(static_cast<size_t>(result.batches), 0.0);
  std::array<int64_t, 20> counts = {};  // correct by class, then images by class
  std::vector<int64_t> indices;
  at::Tensor images;
  at::Tensor labels;
  for (int64_t i = world.rank(); i < result.batches; i += world.size()) {
    indices.resize(static_cast<size_t>(std::min(batch, data.size() - i * batch)));
    std::iota(indices.begin(), indices.end(), i * batch);
    data.batch(indices, images, labels);
    const at::Tensor logits = net.forward(images);
    losses[static_cast<size_t>(i)] = at::cross_entropy_loss(logits, labels).item<float>();
    const at::Tensor named = logits.argmax(1);
    const auto* named_class = named.const_data_ptr<int64_t>();
    const auto* label = labels.const_data_ptr<int64_t>();
    for (size_t k = 0; k < indices.size(); ++k) {
      counts[static_cast<size_t>(label[k])] += named_class[k] == label[k] ? 1 : 0;
      counts[10 + static_cast<size_t>(label[k])] += 1;
    }
  }
  net.train(was_training);

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
