#include "train/tta.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/flip.h>
#include <ATen/ops/reflection_pad2d.h>

#include "lockstep/net.h"

namespace lockstep {
namespace {

at::Tensor logits_of(Net& net, const at::Tensor& images) { return net.forward(images).to(at::kFloat); }

at::Tensor with_mirror(Net& net, const at::Tensor& images) {
  return 0.5 * logits_of(net, images) + 0.5 * logits_of(net, at::flip(images, {-1}));
}

}  // namespace

Tta tta_of(const Settings& settings) {
  return settings.eval_tta == "mirror" ? Tta::mirror : settings.eval_tta == "shifts" ? Tta::shifts : Tta::none;
}

at::Tensor average_logits(Net& net, const at::Tensor& images, Tta tta) {
  if (tta == Tta::none) return logits_of(net, images);
  const at::Tensor unmoved = with_mirror(net, images);
  if (tta == Tta::mirror) return unmoved;
  const int64_t height = images.size(2);
  const int64_t width = images.size(3);
  const at::Tensor padded = at::reflection_pad2d(images, {1, 1, 1, 1});
  const auto window = [&](int64_t at) { return padded.narrow(2, at, height).narrow(3, at, width); };
  return 0.5 * unmoved + 0.25 * with_mirror(net, window(0)) + 0.25 * with_mirror(net, window(2));
}

}  // namespace lockstep
