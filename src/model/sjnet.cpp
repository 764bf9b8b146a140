#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

#include <vector>

#include "lockstep/fast_conv.h"
#include "lockstep/max_pool.h"
#include "lockstep/net.h"
#include "model/nets.h"

namespace lockstep {
namespace {

namespace nn = torch::nn;

class SjNet final : public Net {
 public:
  SjNet() {
    // One by one: initial values are drawn as layers are made, and a constructor's arguments may be made in any order.
    nn::Sequential layers;
    int64_t from = 3;
    for (const int64_t to : {32, 32, 64}) {
      convolutions_.emplace_back(nn::Conv2dOptions(from, to, 5).padding(2));
      layers->push_back(convolutions_.back());
      layers->push_back(MaxPool2x2());
      from = to;
    }
    layers->push_back(nn::Flatten());
    layers->push_back(hidden_ = nn::Linear(1024, 64));
    layers->push_back(out_ = nn::Linear(64, 10));
    register_module("model", layers);  // for the names
  }

  // Layer by layer, but for two that are faster together.
  at::Tensor forward(at::Tensor images) override {
    for (FastConv2d& convolution : convolutions_) images = fast_conv2d_max_pool2x2(images, *convolution);
    return out_(hidden_(images.flatten(1)));
  }

 private:
  std::vector<FastConv2d> convolutions_;
  nn::Linear hidden_{nullptr}, out_{nullptr};
};

}  // namespace

std::shared_ptr<Net> make_sjnet() { return std::make_shared<SjNet>(); }

}  // namespace lockstep
