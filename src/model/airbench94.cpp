// The network of airbench94 by Keller Jordan (https://github.com/KellerJordan/cifar10-airbench, arXiv:2404.00498): its
// layers, initial values and whitening are from there.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <torch/nn/init.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "lockstep/batch_norm_gelu.h"
#include "lockstep/fast_conv.h"
#include "lockstep/net.h"
#include "model/nets.h"

namespace lockstep {
namespace {

namespace nn = torch::nn;

constexpr double kKeptStatistics = 0.6;  // of the old ones after a step

nn::Conv2d make_conv(int64_t from, int64_t to) {
  nn::Conv2d conv(nn::Conv2dOptions(from, to, 3).padding(1).bias(false));
  const c10::NoGradGuard no_grad;
  nn::init::dirac_(conv->weight.slice(0, 0, from));  // the first filters pass their channel on
  return conv;
}

nn::BatchNorm2d make_norm(int64_t channels) {
  nn::BatchNorm2d norm(nn::BatchNorm2dOptions(channels).eps(1e-12).momentum(1 - kKeptStatistics));
  norm->weight.requires_grad_(false);
  return norm;
}

class Group final : public nn::Module {
 public:
  Group(int64_t from, int64_t to) {
    conv1_ = register_module("conv1", make_conv(from, to));
    norm1_ = register_module("norm1", make_norm(to));
    conv2_ = register_module("conv2", make_conv(to, to));
    norm2_ = register_module("norm2", make_norm(to));
  }

  at::Tensor forward(const at::Tensor& images) {
    const at::Tensor half = batch_norm_gelu(fast_conv2d_max_pool2x2(images, *conv1_), norm1_);
    return batch_norm_gelu(fast_conv2d(half, *conv2_), norm2_);
  }

  void set_statistics_momentum(double momentum) {
    norm1_->options.momentum(momentum);
    norm2_->options.momentum(momentum);
  }

 private:
  nn::Conv2d conv1_{nullptr};
  nn::BatchNorm2d norm1_{nullptr};
  nn::Conv2d conv2_{nullptr};
  nn::BatchNorm2d norm2_{nullptr};
};

// Mean of x xᵀ over the 2x2 patches x of all images, [12, 12] in double: the pixels of a patch as a filter has them.
at::Tensor patch_moments(const at::Tensor& images) {
  constexpr int64_t kPart = 500;  // images at a time: 50 MB of patches
  at::Tensor sum = at::zeros({12, 12}, at::kDouble);
  int64_t patches = 0;
  for (int64_t first = 0; first < images.size(0); first += kPart) {
    const at::Tensor part = images.slice(0, first, std::min(first + kPart, images.size(0))).to(at::kDouble);
    // [n, 3, 31, 31, 2, 2]
    const at::Tensor flat = part.unfold(2, 2, 1).unfold(3, 2, 1).permute({0, 2, 3, 1, 4, 5}).reshape({-1, 12});
    sum += at::matmul(flat.t(), flat);
    patches += flat.size(0);
  }
  return sum / static_cast<double>(patches);
}

class Airbench94 final : public Net {
 public:
  Airbench94() {
    whiten_ = register_module("whiten", nn::Conv2d(nn::Conv2dOptions(3, 24, 2)));
    whiten_->weight.requires_grad_(false);
    int64_t from = 24;
    for (const int64_t to : {64, 256, 256}) {
      groups_.push_back(
          register_module("group" + std::to_string(groups_.size() + 1), std::make_shared<Group>(from, to)));
      from = to;
    }
    head_ = register_module("head", nn::Linear(nn::LinearOptions(from, 10).bias(false)));
    const c10::NoGradGuard no_grad;
    head_->weight.div_(head_->weight.std());
  }

  at::Tensor forward(at::Tensor images) override {
    at::Tensor x = fast_gelu(whiten_(images));
    for (const auto& group : groups_) x = group->forward(x);
    x = at::max_pool2d(x, 3).flatten(1);
    return head_(x) / static_cast<double>(x.size(1));
  }

  Kind kind_of(const std::string& name, const at::Tensor& parameter) const override {
    return name == "whiten.bias" ? Kind::whitening_bias : Net::kind_of(name, parameter);
  }

  int64_t images_to_prepare() const override { return 5000; }

  void prepare(const at::Tensor& images) override {
    constexpr double kLeast = 5e-4;  // added to eigenvalues, so that faint patterns are not blown up
    const c10::NoGradGuard no_grad;
    const auto [values, vectors] = at::linalg_eigh(patch_moments(images));
    const at::Tensor filters = (vectors / (values + kLeast).sqrt()).t().reshape({12, 3, 2, 2});
    whiten_->weight.copy_(at::cat({filters, -filters}));
  }

  void set_passes_per_step(int64_t passes) override {
    const double momentum = 1 - std::pow(kKeptStatistics, 1 / static_cast<double>(passes));
    for (const auto& group : groups_) group->set_statistics_momentum(momentum);
  }

 private:
  nn::Conv2d whiten_{nullptr};
  std::vector<std::shared_ptr<Group>> groups_;
  nn::Linear head_{nullptr};
};

}  // namespace

std::shared_ptr<Net> make_airbench94() { return std::make_shared<Airbench94>(); }

}  // namespace lockstep
