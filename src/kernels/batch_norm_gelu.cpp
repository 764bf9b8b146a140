#include "lockstep/batch_norm_gelu.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gelu.h>
#include <ATen/record_function.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/norm_gelu_kernels.h"
#include "kernels/parallel.h"

namespace lockstep::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <typename Bits>
const NormGeluKernels<Bits>& kernels() {
  static const NormGeluKernels<Bits> best = norm_gelu_kernels<Bits>(best_processor());
  return best;
}

// Calls what it is given with the type that an element's bits are: uint32_t or uint16_t.
template <typename Call>
auto with_bits(const at::Tensor& tensor, const Call& call) {
  return tensor.scalar_type() == at::kFloat ? call(uint32_t{}) : call(uint16_t{});
}

bool known_type(const at::Tensor& tensor) {
  return tensor.device().is_cpu() && tensor.layout() == at::kStrided && tensor.numel() > 0 &&
         (tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kBFloat16);
}

void refuse_second_derivative() {
  TORCH_CHECK(!c10::GradMode::is_enabled(), "lockstep's GELU has no second derivative");
}

// Pixels in pieces that stay in the first cache, of a size that depends on nothing but the channels: so do the sums.
struct Pieces {
  Pieces(int64_t all_pixels, int64_t all_channels)
      : pixels(all_pixels),
        channels(all_channels),
        size(std::max<int64_t>(16, 8192 / all_channels)),
        count((all_pixels + size - 1) / size) {}

  template <typename Work>
  void each(const Work& work) const {
    parallel_for(0, count, 2, [&](int64_t begin, int64_t end) {
      for (int64_t piece = begin; piece < end; ++piece) {
        const int64_t first = piece * size;
        work(piece, first * channels, std::min(size, pixels - first));
      }
    });
  }

  int64_t pixels, channels, size, count;
};

// Two sums of each piece and channel, added up in double in the order of the pieces.
class Sums {
 public:
  explicit Sums(const Pieces& pieces)
      : pieces_(pieces), parts_(static_cast<size_t>(2 * pieces.count * pieces.channels)) {}
  float* first(int64_t piece) { return parts_.data() + 2 * piece * pieces_.channels; }
  float* second(int64_t piece) { return first(piece) + pieces_.channels; }
  void add_up(std::vector<double>& firsts, std::vector<double>& seconds) const {
    const auto channels = static_cast<size_t>(pieces_.channels);
    firsts.assign(channels, 0);
    seconds.assign(channels, 0);
    const float* part = parts_.data();
    for (int64_t piece = 0; piece < pieces_.count; ++piece, part += 2 * channels) {
      for (size_t c = 0; c < channels; ++c) {
        firsts[c] += part[c];
        seconds[c] += part[channels + c];
      }
    }
  }

 private:
  const Pieces& pieces_;
  std::vector<float> parts_;
};

// What normalising comes to: scale x + shift of each channel.
struct Affine {
  std::vector<float> mean, deviation_inverse, scale, shift;
};

Affine affine(const std::vector<double>& mean, const std::vector<double>& variance, double eps,
              const at::Tensor& weight, const at::Tensor& bias) {
  Affine result;
  for (size_t c = 0; c < mean.size(); ++c) {
    const double inverse = 1 / std::sqrt(variance[c] + eps);
    const double scale = inverse * weight.const_data_ptr<float>()[c];
    const double shift = bias.const_data_ptr<float>()[c] - mean[c] * scale;
    result.mean.push_back(static_cast<float>(mean[c]));
    result.deviation_inverse.push_back(static_cast<float>(inverse));
    result.scale.push_back(static_cast<float>(scale));
    result.shift.push_back(static_cast<float>(shift));
  }
  return result;
}

template <typename Bits>
at::Tensor apply_affine(const at::Tensor& images, const Pieces& pieces, const Affine& by) {
  at::Tensor out = at::empty_like(images);
  const auto* x = static_cast<const Bits*>(images.const_data_ptr());
  auto* y = static_cast<Bits*>(out.mutable_data_ptr());
  pieces.each([&](int64_t, int64_t at, int64_t pixels) {
    kernels<Bits>().forward(x + at, by.scale.data(), by.shift.data(), y + at, pixels, pieces.channels);
  });
  return out;
}

Pieces pieces_of(const at::Tensor& images) { return {images.numel() / images.size(1), images.size(1)}; }

at::Tensor as_tensor(const std::vector<double>& values) {
  at::Tensor tensor = at::empty({static_cast<int64_t>(values.size())}, at::kFloat);
  std::transform(values.begin(), values.end(), tensor.mutable_data_ptr<float>(),
                 [](double value) { return static_cast<float>(value); });
  return tensor;
}

struct TrainedNormGelu : torch::autograd::Function<TrainedNormGelu> {
  static variable_list forward(AutogradContext* context, const at::Tensor& images, const at::Tensor& weight,
                               const at::Tensor& bias, double eps) {
    const Pieces pieces = pieces_of(images);
    std::vector<double> mean, variance;
    at::Tensor out;
    Affine by;
    with_bits(images, [&]<typename Bits>(Bits) {
      Sums sums(pieces);
      const auto* x = static_cast<const Bits*>(images.const_data_ptr());
      pieces.each([&](int64_t piece, int64_t at, int64_t pixels) {
        kernels<Bits>().sums(x + at, pixels, pieces.channels, sums.first(piece), sums.second(piece));
      });
      sums.add_up(mean, variance);
      const auto count = static_cast<double>(pieces.pixels);
      for (size_t c = 0; c < mean.size(); ++c) {
        mean[c] /= count;
        // A NaN stays one; rounding may leave a little less than nothing.
        const double about_mean = variance[c] / count - mean[c] * mean[c];
        variance[c] = about_mean < 0 ? 0 : about_mean;
      }
      by = affine(mean, variance, eps, weight, bias);
      out = apply_affine<Bits>(images, pieces, by);
    });
    const auto keep = [](const std::vector<float>& values) {
      return at::empty({static_cast<int64_t>(values.size())}, at::kFloat)
          .copy_(at::from_blob(const_cast<float*>(values.data()), {static_cast<int64_t>(values.size())}, at::kFloat));
    };
    context->save_for_backward({images, keep(by.mean), keep(by.deviation_inverse), keep(by.scale), keep(by.shift)});
    const at::Tensor mean_out = as_tensor(mean);
    const at::Tensor variance_out = as_tensor(variance);
    context->mark_non_differentiable({mean_out, variance_out});
    return {out, mean_out, variance_out};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    refuse_second_derivative();
    const variable_list kept = context->get_saved_variables();
    const at::Tensor& images = kept[0];
    const at::Tensor gradient = gradients[0].contiguous(at::MemoryFormat::ChannelsLast);
    const float* mean = kept[1].const_data_ptr<float>();
    const float* inverse = kept[2].const_data_ptr<float>();
    const float* scale = kept[3].const_data_ptr<float>();
    const float* shift = kept[4].const_data_ptr<float>();
    const Pieces pieces = pieces_of(images);
    at::Tensor of_images = at::empty_like(images);
    std::vector<double> sum, product;
    with_bits(images, [&]<typename Bits>(Bits) {
      const auto* x = static_cast<const Bits*>(images.const_data_ptr());
      const auto* g = static_cast<const Bits*>(gradient.const_data_ptr());
      auto* dz = static_cast<Bits*>(of_images.mutable_data_ptr());
      Sums sums(pieces);
      pieces.each([&](int64_t piece, int64_t at, int64_t pixels) {
        kernels<Bits>().backward(x + at, g + at, scale, shift, mean, dz + at, pixels, pieces.channels,
                                 sums.first(piece), sums.second(piece));
      });
      sums.add_up(sum, product);
      // With n pixels and x̂ = (x - mean) / deviation: dx = scale (dz - Σdz / n - x̂ Σ(dz x̂) / n).
      std::vector<float> of_x, constant;
      const auto n = static_cast<double>(pieces.pixels);
      for (size_t c = 0; c < sum.size(); ++c) {
        product[c] *= inverse[c];  // Σ(dz x̂)
        const double slope = -scale[c] * inverse[c] * product[c] / n;
        of_x.push_back(static_cast<float>(slope));
        constant.push_back(static_cast<float>(-scale[c] * sum[c] / n - slope * mean[c]));
      }
      pieces.each([&](int64_t, int64_t at, int64_t pixels) {
        kernels<Bits>().combine(x + at, scale, of_x.data(), constant.data(), dz + at, pixels, pieces.channels);
      });
    });
    return {of_images, as_tensor(product), as_tensor(sum), at::Tensor()};
  }
};

struct Gelu : torch::autograd::Function<Gelu> {
  // Values that a thread takes at least.
  static constexpr int64_t kGrain = 1 << 14;

  static at::Tensor forward(AutogradContext* context, const at::Tensor& values) {
    at::Tensor out = at::empty_like(values);
    with_bits(values, [&]<typename Bits>(Bits) {
      const auto* x = static_cast<const Bits*>(values.const_data_ptr());
      auto* y = static_cast<Bits*>(out.mutable_data_ptr());
      parallel_for(0, values.numel(), kGrain,
                   [&](int64_t begin, int64_t end) { kernels<Bits>().gelu(x + begin, y + begin, end - begin); });
    });
    context->save_for_backward({values});
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    refuse_second_derivative();
    const at::Tensor values = context->get_saved_variables()[0];
    at::Tensor of_values = at::empty_like(values);
    const at::Tensor gradient = at::empty_like(values).copy_(gradients[0]);
    with_bits(values, [&]<typename Bits>(Bits) {
      const auto* x = static_cast<const Bits*>(values.const_data_ptr());
      const auto* g = static_cast<const Bits*>(gradient.const_data_ptr());
      auto* dx = static_cast<Bits*>(of_values.mutable_data_ptr());
      parallel_for(0, values.numel(), kGrain, [&](int64_t begin, int64_t end) {
        kernels<Bits>().gelu_backward(x + begin, g + begin, dx + begin, end - begin);
      });
    });
    return {of_values};
  }
};

bool ours(const at::Tensor& images, const torch::nn::BatchNorm2dImpl& norm) {
  const auto fits = [&](const at::Tensor& tensor) {
    return tensor.defined() && (tensor.device().is_cpu() && tensor.scalar_type() == at::kFloat &&
                                tensor.is_contiguous() && tensor.numel() == images.size(1));
  };
  const bool ungraded = !c10::GradMode::is_enabled() || !(images.requires_grad() || norm.weight.requires_grad());
  return known_type(images) && images.dim() == 4 && images.is_contiguous(at::MemoryFormat::ChannelsLast) &&
         fits(norm.running_mean) && fits(norm.running_var) && fits(norm.weight) && fits(norm.bias) &&
         (norm.is_training() ? images.numel() > images.size(1) : ungraded);
}

// As BatchNorm2dImpl::forward does it.
void update_statistics(torch::nn::BatchNorm2dImpl& norm, const at::Tensor& mean, const at::Tensor& variance, double n) {
  const at::NoGradGuard no_grad;
  if (norm.num_batches_tracked.defined()) norm.num_batches_tracked += 1;
  const double share = norm.options.momentum() ? *norm.options.momentum() : 1 / norm.num_batches_tracked.item<double>();
  norm.running_mean.mul_(1 - share).add_(mean, share);
  norm.running_var.mul_(1 - share).add_(variance, share * n / (n - 1));
}

}  // namespace

}  // namespace lockstep::kernels

namespace lockstep {

at::Tensor batch_norm_gelu(const at::Tensor& images, torch::nn::BatchNorm2d& norm) {
  using namespace kernels;
  RECORD_FUNCTION("lockstep::batch_norm_gelu", c10::ArrayRef<c10::IValue>());
  if (!ours(images, *norm)) return fast_gelu(norm->forward(images));
  if (norm->is_training()) {
    const variable_list all = TrainedNormGelu::apply(images, norm->weight, norm->bias, norm->options.eps());
    update_statistics(*norm, all[1], all[2], static_cast<double>(images.numel() / images.size(1)));
    return all[0];
  }
  const auto values = [](const at::Tensor& tensor) {
    const float* data = tensor.const_data_ptr<float>();
    return std::vector<double>(data, data + tensor.numel());
  };
  const Affine by =
      affine(values(norm->running_mean), values(norm->running_var), norm->options.eps(), norm->weight, norm->bias);
  return with_bits(images, [&]<typename Bits>(Bits) { return apply_affine<Bits>(images, pieces_of(images), by); });
}

at::Tensor fast_gelu(const at::Tensor& values) {
  using namespace kernels;
  RECORD_FUNCTION("lockstep::fast_gelu", c10::ArrayRef<c10::IValue>());
  return known_type(values) && values.is_non_overlapping_and_dense() ? Gelu::apply(values) : at::gelu(values);
}

}  // namespace lockstep
