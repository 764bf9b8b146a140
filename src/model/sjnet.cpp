#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/pooling.h>

#include "lockstep/net.h"
#include "model/nets.h"

namespace lockstep {
namespace {

namespace nn = torch::nn;

class SjNet final : public Net {
 public:
  SjNet() {
    const auto conv = [](int64_t from, int64_t to) { return nn::Conv2d(nn::Conv2dOptions(from, to, 5).padding(2)); };
    model_ = register_module("model", nn::Sequential(conv(3, 32), nn::MaxPool2d(2), conv(32, 32), nn::MaxPool2d(2),
                                                     conv(32, 64), nn::MaxPool2d(2), nn::Flatten(), nn::Linear(1024, 64),
                                                     nn::Linear(64, 10)));
  }

  at::Tensor forward(at::Tensor images) override { return model_->forward(images); }

 private:
  nn::Sequential model_{nullptr};
};

}  // namespace

std::shared_ptr<Net> make_sjnet() { return std::make_shared<SjNet>(); }

}  // namespace lockstep
