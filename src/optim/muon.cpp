#include "optim/muon.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace lockstep {
namespace {

constexpr int kSteps = 3;
// Of the polynomial aσ + bσ³ + cσ⁵, which takes singular values towards 1 fast and then keeps them near it.
constexpr double kA = 3.4445;
constexpr double kB = -4.7750;
constexpr double kC = 2.0315;

constexpr double kSmallestNorm = 1e-30;  // for division; what is smaller is zero

}  // namespace

at::Tensor orthogonalised(const at::Tensor& matrix, at::ScalarType type) {
  const bool tall = matrix.size(0) > matrix.size(1);
  at::Tensor x = (matrix / at::linalg_vector_norm(matrix).clamp_min(kSmallestNorm)).to(type);
  if (tall) x = x.t();  // the smaller of XXᵀ and XᵀX
  for (int i = 0; i < kSteps; ++i) {
    const at::Tensor a = at::matmul(x, x.t());
    const at::Tensor b = at::addmm(a, a, a, kB, kC);
    x = at::addmm(x, b, x, kA, 1);
  }
  return (tall ? x.t() : x).to(at::kFloat);
}

Muon::Muon(std::vector<at::Tensor> filters, const Options& options)
    : filters_(std::move(filters)), buffers_(filters_.size()), options_(options) {
  if (options_.division.ranks > 1) divide();
}

void Muon::divide() {
  const int ranks = options_.division.ranks;
  std::vector<double> costs;
  for (const at::Tensor& filter : filters_) {
    const auto out = static_cast<double>(filter.size(0));
    const auto rest = static_cast<double>(filter.numel()) / out;
    const double few = std::min(out, rest);
    costs.push_back(few * few * (2 * std::max(out, rest) + few));  // the multiplications of a step of Newton-Schulz
  }
  made_by_ = makers(costs, ranks);
  places_.resize(filters_.size());
  for (int rank = 0; rank < ranks; ++rank) {
    int64_t length = 0;
    for (size_t i = 0; i < filters_.size(); ++i) {
      if (made_by_[i] == rank) length += filters_[i].numel();
    }
    const at::Tensor part = at::zeros({length}, at::TensorOptions(options_.type).device(filters_[0].device()));
    int64_t first = 0;
    for (size_t i = 0; i < filters_.size(); ++i) {
      if (made_by_[i] != rank) continue;
      places_[i] = part.narrow(0, first, filters_[i].numel()).view({filters_[i].size(0), -1});
      first += filters_[i].numel();
    }
    parts_.push_back(part);
  }
}

void Muon::step(double lr) {
  const c10::NoGradGuard no_grad;
  const bool divided = !places_.empty();
  std::vector<at::Tensor> updates(filters_.size());
  for (size_t i = 0; i < filters_.size(); ++i) {
    const at::Tensor filter = filters_[i].detach();
    const at::Tensor& gradient = filters_[i].grad();
    if (!gradient.defined()) continue;
    at::Tensor& buffer = buffers_[i];
    if (!buffer.defined()) buffer = at::zeros_like(filter);
    buffer.mul_(options_.momentum).add_(gradient);
    if (divided && made_by_[i] != options_.division.rank) continue;
    const at::Tensor direction = options_.nesterov ? gradient.add(buffer, options_.momentum) : buffer;
    updates[i] = orthogonalised(direction.reshape({filter.size(0), -1}), options_.type);
    if (divided) places_[i].copy_(updates[i]);  // exact: it was computed in this type
  }
  if (divided) options_.division.exchange(parts_);
  for (size_t i = 0; i < filters_.size(); ++i) {
    if (!filters_[i].grad().defined()) continue;
    at::Tensor filter = filters_[i].detach();
    const at::Tensor update = updates[i].defined() ? updates[i] : places_[i].to(at::kFloat);
    const auto out = static_cast<double>(filter.size(0));
    filter.mul_(std::sqrt(out) / at::linalg_vector_norm(filter).clamp_min(kSmallestNorm));
    filter.sub_(update.reshape(filter.sizes()), lr);
  }
}

at::Tensor Muon::buffer_of(const at::Tensor& filter) const {
  for (size_t i = 0; i < filters_.size(); ++i) {
    if (filters_[i].is_same(filter)) return buffers_[i];
  }
  return {};
}

bool Muon::set_buffer(const at::Tensor& filter, const at::Tensor& buffer) {
  for (size_t i = 0; i < filters_.size(); ++i) {
    if (!filters_[i].is_same(filter)) continue;
    buffers_[i] = buffer;
    return true;
  }
  return false;
}

}  // namespace lockstep
