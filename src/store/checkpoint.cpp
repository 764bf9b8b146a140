#include "store/checkpoint.h"

#include <fmt/format.h>

#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>

#include "lockstep/error.h"
#include "store/digest.h"
#include "store/pieces.h"

namespace lockstep {
namespace {

// Names in the metadata.
constexpr std::string_view kOurs = "lockstep.", kFormat = "lockstep.format", kState = "lockstep.state",
                           kTensors = "lockstep.tensors", kDigest = "lockstep.digest";
constexpr std::string_view kOurFormat = "1";

// Within a JSON text this can only be that key and the start of its value: inside a text, a quotation mark has a
// backslash before it.
constexpr std::string_view kBeforeDigits = R"("lockstep.digest":")";
constexpr std::size_t kDigits = 32;

// Where the digits of the header's own digest are, if that is at exactly one place.
std::optional<std::size_t> place_of_digits(std::string_view header) {
  const std::size_t place = header.find(kBeforeDigits);
  if (place == header.npos || header.find(kBeforeDigits, place + 1) != header.npos) return std::nullopt;
  const std::size_t digits = place + kBeforeDigits.size();
  if (header.size() < digits + kDigits) return std::nullopt;
  return digits;
}

std::string digest_of_header(std::string_view header, std::size_t digits) {
  std::string text(header);
  text.replace(digits, kDigits, kDigits, '0');
  return digest_bytes(text);
}

const std::string& text_of(const Metadata& metadata, std::string_view key) {
  const auto found =
      std::find_if(metadata.begin(), metadata.end(), [&](const auto& item) { return item.first == key; });
  if (found == metadata.end()) throw Malformed(fmt::format("it has no {}", key));
  return found->second;
}

// The tensors and state of a checkpoint of which every byte verifies.
struct Verified {
  SafetensorsView view;
  std::string state;
};

Verified verify(std::string_view bytes) {
  SafetensorsView view = view_safetensors(bytes);
  const std::string& format = text_of(view.metadata, kFormat);
  if (format != kOurFormat) {
    throw Malformed(fmt::format("it is of format {:.20}, and this Lockstep reads format {}", format, kOurFormat));
  }
  const auto digits = place_of_digits(view.header);
  if (!digits || digest_of_header(view.header, *digits) != text_of(view.metadata, kDigest)) {
    throw Malformed("its header does not match its checksum");
  }
  // The header is now known to be what a writer wrote, and holds the digests of all that follows.
  const auto digests = nlohmann::json::parse(text_of(view.metadata, kTensors), nullptr, /*allow_exceptions=*/false);
  if (!digests.is_object() || digests.size() != view.tensors.size()) {
    throw Malformed("it has not one checksum for each tensor");
  }
  for (const TensorView& tensor : view.tensors) {
    const auto digest = digests.find(tensor.name);
    if (digest == digests.end()) throw Malformed(fmt::format("it has no checksum for the tensor {}", tensor.name));
    if (*digest != digest_bytes(tensor.data)) {
      throw Malformed(fmt::format("the tensor {} does not match its checksum", tensor.name));
    }
  }
  std::string state = text_of(view.metadata, kState);
  return {std::move(view), std::move(state)};
}

}  // namespace

std::string checkpoint_bytes(const NamedTensors& tensors, const std::string& state_json) {
  return checkpoint_pieces(tensors, state_json).joined();
}

SafetensorsPieces checkpoint_pieces(const NamedTensors& tensors, const std::string& state_json,
                                    const std::vector<std::string>& known) {
  NamedTensors flat;
  std::size_t size = 0;
  auto digests = nlohmann::json::object();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto& [name, tensor] = tensors[i];
    flat.emplace_back(name, flat_on_host(name, tensor));
    size += flat.back().second.nbytes();
    digests[name] = known.empty() ? digest_bytes(data_of(flat.back().second)) : known.at(i);
  }
  const auto replace = nlohmann::json::error_handler_t::replace;  // safetensors_pieces refuses names that are not UTF-8
  SafetensorsPieces pieces = safetensors_pieces(flat,
                                                {{"format", "pt"},
                                                 {std::string(kFormat), std::string(kOurFormat)},
                                                 {std::string(kState), state_json},
                                                 {std::string(kTensors), digests.dump(-1, ' ', false, replace)},
                                                 {std::string(kDigest), std::string(kDigits, '0')}},
                                                size >= Pieces::kDirectFrom ? Pieces::kAlignment : 8);
  const auto digits = place_of_digits(pieces.header);
  if (!digits) {
    throw Error(ExitCode::internal, fmt::format("a tensor of a checkpoint has {} in its name", kDigest),
                "give it another name");
  }
  pieces.header.replace(*digits, kDigits, digest_of_header(pieces.header, *digits));
  return pieces;
}

NamedTensors checkpoint_memory(const NamedTensors& tensors) {
  std::size_t size = 0;
  for (const auto& [name, tensor] : tensors) size += tensor.nbytes();
  const std::shared_ptr<char> memory(
      static_cast<char*>(std::aligned_alloc(Pieces::kAlignment, (size / Pieces::kAlignment + 1) * Pieces::kAlignment)),
      [](char* bytes) { std::free(bytes); });
  if (!memory) throw std::bad_alloc();
  NamedTensors views = tensors;
  std::size_t used = 0;
  for (const std::size_t i : order_of_data(tensors)) {
    const at::Tensor& tensor = tensors[i].second;
    views[i].second = at::from_blob(
        memory.get() + used, tensor.sizes(), [memory](void*) {}, at::TensorOptions(tensor.scalar_type()));
    used += tensor.nbytes();
  }
  return views;
}

Checkpoint read_checkpoint(std::string_view bytes) {
  Verified verified = verify(bytes);
  return {copy_tensors(verified.view), std::move(verified.state)};
}

bool is_checkpoint(const Metadata& metadata) {
  return std::any_of(metadata.begin(), metadata.end(), [](const auto& item) { return item.first.starts_with(kOurs); });
}

}  // namespace lockstep
