#include "ddp/agreement.h"

#include <c10/core/ScalarType.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/nn/module.h>
#include <torch/version.h>

#include <algorithm>

#include "ddp/gathered.h"
#include "lockstep/version.h"
#include "lockstep/world.h"
#include "store/digest.h"

namespace lockstep {
namespace {

using Lines = std::vector<std::string>;

// Whether `lines`, from `place` on, come to `line` at all.
bool comes(const Lines& lines, size_t place, const std::string& line) {
  return std::find(lines.begin() + static_cast<std::ptrdiff_t>(place), lines.end(), line) != lines.end();
}

std::string first_difference(const Lines& reference, const Lines& other, int rank) {
  const auto pair = std::mismatch(reference.begin(), reference.end(), other.begin(), other.end());
  const auto place = static_cast<size_t>(pair.first - reference.begin());
  const bool reference_ends = place == reference.size();
  const bool other_ends = place == other.size();
  if (reference_ends && other_ends) return fmt::format("rank {} reckons another digest for the same text", rank);
  // A line that one side skips, rather than two lines that differ.
  if (other_ends ||
      (!reference_ends && !comes(other, place, reference[place]) && comes(reference, place, other[place]))) {
    return fmt::format("rank {} lacks `{}`", rank, reference[place]);
  }
  if (reference_ends || (!comes(reference, place, other[place]) && comes(other, place, reference[place]))) {
    return fmt::format("rank {} has `{}`, which rank 0 lacks", rank, other[place]);
  }
  return fmt::format("rank {} has `{}`, rank 0 `{}`", rank, other[place], reference[place]);
}

std::string describe_tensor(const char* kind, const std::string& name, const at::Tensor& tensor) {
  if (!tensor.defined()) return fmt::format("{} {} undefined", kind, name);
  const bool dense = tensor.layout() == c10::kStrided;
  std::string strides = dense ? "" : " not dense";
  if (dense && !tensor.is_contiguous()) strides = fmt::format(" strides [{}]", fmt::join(tensor.strides(), ", "));
  return fmt::format("{} {} [{}] {}{}", kind, name, fmt::join(tensor.sizes(), ", "),
                     c10::getDtypeNames(tensor.scalar_type()).first, strides);
}

}  // namespace

void agree(World& world, const std::string& about, const std::vector<std::string>& lines) {
  const std::string packed = pack({about}) + pack(lines);
  const std::vector<std::string> digests = world.all_gather(digest_bytes(packed));
  std::vector<int> odd;
  for (size_t rank = 0; rank < digests.size(); ++rank) {
    if (digests[rank] != digests[0]) odd.push_back(static_cast<int>(rank));
  }
  if (odd.empty()) return;

  std::vector<std::string> hosts;
  std::vector<Lines> texts;
  for (const std::string& text : world.all_gather(pack({world.host()}) + packed)) {
    Lines& of_rank = texts.emplace_back(unpack(text));
    hosts.push_back(of_rank.at(0));
    of_rank.erase(of_rank.begin());
  }
  // All words are rank 0's or gathered, so that every rank throws the same ones.
  throw AgreedError(
      Error(ExitCode::launch,
            fmt::format("{} {} from rank 0 in {}: {}", name_ranks(odd, hosts), odd.size() == 1 ? "differs" : "differ",
                        texts[0].at(0), first_difference(texts[0], texts[static_cast<size_t>(odd[0])], odd[0])),
            "run the same program with the same settings on every rank; after an update, see that every host has it"),
      odd[0]);
}

std::vector<std::string> describe_module(const torch::nn::Module& module) {
  Lines lines = {fmt::format("lockstep {} with LibTorch {}", version(), TORCH_VERSION)};
  for (const auto& item : module.named_parameters()) {
    lines.push_back(describe_tensor("parameter", item.key(), item.value()) +
                    (item.value().requires_grad() ? "" : " frozen"));
  }
  for (const auto& item : module.named_buffers()) lines.push_back(describe_tensor("buffer", item.key(), item.value()));
  return lines;
}

}  // namespace lockstep
