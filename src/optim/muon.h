// Muon: momentum whose updates are orthogonalised, for the filters of convolutions.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "optim/division.h"

namespace lockstep {

/// About the nearest matrix with orthonormal rows (columns, where there are fewer of them): the singular values of
/// `matrix`, whatever its scale, all become about 1 (0.7 to 1.2 where they were not much smaller than the largest).
/// Three Newton-Schulz steps X ← aX + (bA + cA²)X with A = XXᵀ from the matrix over its Frobenius norm, in float32 or
/// bfloat16 (half a percent off, and five times as fast where the processor multiplies in it). matrix: float32 [m, n];
/// so is the result. Local.
at::Tensor orthogonalised(const at::Tensor& matrix, at::ScalarType type = at::kFloat);

/// Updates filters as airbench94_muon does (Keller Jordan, https://github.com/KellerJordan/cifar10-airbench, and
/// https://kellerjordan.github.io/posts/muon/, from where the formulas are): each filter is scaled to norm √out, then
/// rate × the orthogonalised momentum, taken as a matrix out × rest, is subtracted. The scale of gradients does not
/// matter: those of a mean and of a sum of losses give the same steps.
///
/// Filters: float32 [out, in, height, width] in any layout. Local; ranks that start alike and have the same threads and
/// kind of processor stay alike. Divided among ranks, a step is collective: each rank orthogonalises the momenta of
/// some filters and sends what came out, in the type that it was computed in, so the bits are the same as undivided.
class Muon {
 public:
  struct Options {
    double momentum = 0;
    bool nesterov = false;
    at::ScalarType type = at::kFloat;  ///< what orthogonalised() computes in
    Division division = {};
  };
  Muon(std::vector<at::Tensor> filters, const Options& options);

  /// Updates the filters that have a gradient, the same ones on all ranks.
  void step(double lr);

  /// The momentum of a filter: undefined before its first step, and for what is none of the filters.
  at::Tensor buffer_of(const at::Tensor& filter) const;

  /// Takes it over; false: this is none of the filters.
  bool set_buffer(const at::Tensor& filter, const at::Tensor& buffer);

 private:
  void divide();

  std::vector<at::Tensor> filters_;
  std::vector<at::Tensor> buffers_;  // one for each
  Options options_;
  // Where several ranks divide the work: who makes each update, its place, and the places of each rank together.
  std::vector<int> made_by_;
  std::vector<at::Tensor> places_;
  std::vector<at::Tensor> parts_;
};

}  // namespace lockstep
