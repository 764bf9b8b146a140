#include "store/safetensors.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/Layout.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <unordered_set>

#include "lockstep/error.h"
#include "store/row_major.h"
#include "store/safetensors_header.h"
#include "store/utf8.h"

namespace lockstep {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the format is little-endian, and bytes are copied as they are");

constexpr uint64_t kLargestHeader = 100'000'000;  // the reference reader's limit
constexpr std::size_t kLengthSize = 8;

// The bytes a tensor has by its type and shape. Sizes of 0 count as 1 here first: LibTorch computes strides so.
uint64_t size_of(const TensorView& tensor) {
  int64_t reach = static_cast<int64_t>(c10::elementSize(tensor.type));
  bool empty = false;
  for (const int64_t size : tensor.shape) {
    empty |= size == 0;
    if (size < 0 || __builtin_mul_overflow(reach, std::max<int64_t>(size, 1), &reach)) {
      throw Malformed(fmt::format("the shape of the tensor {} is too large", shown(tensor.name)));
    }
  }
  return empty ? 0 : static_cast<uint64_t>(reach);
}

uint64_t length_of_header(std::string_view bytes) {
  if (bytes.size() < kLengthSize) throw Malformed("it is too short for a safetensors file");
  uint64_t length;
  std::memcpy(&length, bytes.data(), kLengthSize);
  if (length > kLargestHeader) throw Malformed("its header would be larger than 100 MB");
  if (length > bytes.size() - kLengthSize) throw Malformed("it ends within its header");
  return length;
}

std::string quoted(const std::string& text) {
  if (!is_utf8(text)) {
    throw Error(ExitCode::internal, fmt::format("the text \"{}\" for a safetensors file is not UTF-8", escaped(text)),
                "give text in UTF-8");
  }
  return nlohmann::json(text).dump();
}

// `"NAME": ` for a header, each name once.
class Keys {
 public:
  std::string add(const std::string& name) {
    if (!names_.insert(name).second) {
      throw Error(ExitCode::internal, fmt::format("a safetensors file cannot have the name {} twice", shown(name)),
                  "give each its own name");
    }
    return quoted(name) + ":";
  }

 private:
  std::unordered_set<std::string> names_;
};

}  // namespace

at::Tensor flat_on_host(const std::string& name, const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.layout() != c10::kStrided) {
    throw Error(ExitCode::internal, fmt::format("the tensor {} is undefined or not dense", name),
                "give dense tensors only");
  }
  return row_major(tensor);
}

std::string_view data_of(const at::Tensor& flat) {
  if (flat.nbytes() == 0) return {};
  return {static_cast<const char*>(flat.const_data_ptr()), flat.nbytes()};
}

std::vector<std::string_view> SafetensorsPieces::views() const {
  std::vector<std::string_view> views{header};
  bool behind = false;  // a tensor
  for (const auto& [name, tensor] : tensors) {
    const std::string_view data = data_of(tensor);
    if (data.empty()) continue;
    std::string_view& last = views.back();
    if (behind && last.data() + last.size() == data.data()) {
      last = {last.data(), last.size() + data.size()};
    } else {
      views.push_back(data);
    }
    behind = true;
  }
  return views;
}

std::string SafetensorsPieces::joined() const {
  const std::vector<std::string_view> pieces = views();
  std::size_t size = 0;
  for (const std::string_view piece : pieces) size += piece.size();
  std::string bytes;
  bytes.reserve(size);
  for (const std::string_view piece : pieces) bytes += piece;
  return bytes;
}

std::string safetensors_bytes(const NamedTensors& tensors, const Metadata& metadata) {
  return safetensors_pieces(tensors, metadata).joined();
}

std::vector<std::size_t> order_of_data(const NamedTensors& tensors) {
  std::vector<std::size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return tensors[a].second.element_size() > tensors[b].second.element_size();
  });
  return order;
}

SafetensorsPieces safetensors_pieces(const NamedTensors& tensors, const Metadata& metadata, std::size_t alignment) {
  NamedTensors flat, ordered;
  for (const auto& [name, tensor] : tensors) {
    if (tensor.defined()) type_name(name, tensor.scalar_type());  // throws if it has none
    flat.emplace_back(name, flat_on_host(name, tensor));
  }
  for (const std::size_t i : order_of_data(flat)) ordered.push_back(flat[i]);

  Keys texts, names;
  std::string header(kLengthSize, '\0');
  header += "{" + names.add(kMetadataName) + "{";
  for (const auto& [key, text] : metadata) {
    header += fmt::format("{}{}{}", header.ends_with('{') ? "" : ",", texts.add(key), quoted(text));
  }
  header += "}";
  uint64_t begin = 0;
  for (const auto& [name, tensor] : ordered) {
    const uint64_t end = begin + tensor.nbytes();
    header += fmt::format(R"(,{}{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", names.add(name),
                          type_name(name, tensor.scalar_type()), fmt::join(tensor.sizes(), ","), begin, end);
    begin = end;
  }
  header += "}";
  header.append((alignment - header.size() % alignment) % alignment, ' ');
  const uint64_t length = header.size() - kLengthSize;
  if (length > kLargestHeader) {
    throw Error(ExitCode::internal, "the header of a safetensors file would be larger than 100 MB",
                "save fewer tensors");
  }

  std::memcpy(header.data(), &length, kLengthSize);
  return {std::move(header), std::move(ordered)};
}

at::Tensor TensorView::copy() const {
  at::Tensor tensor = at::empty(shape, type);
  if (!data.empty()) std::memcpy(tensor.data_ptr(), data.data(), data.size());
  return tensor;
}

NamedTensors copy_tensors(const SafetensorsView& view) {
  NamedTensors tensors;
  for (const TensorView& tensor : view.tensors) tensors.emplace_back(tensor.name, tensor.copy());
  return tensors;
}

SafetensorsView view_safetensors(std::string_view bytes) {
  const std::string_view start = bytes.substr(0, kLengthSize + length_of_header(bytes));
  SafetensorsHeader header = read_safetensors_header(start.substr(kLengthSize));
  const std::string_view data = bytes.substr(start.size());

  std::stable_sort(header.entries.begin(), header.entries.end(),
                   [](const auto& a, const auto& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  SafetensorsView view{{}, std::move(header.metadata), start};
  uint64_t reached = 0;
  for (auto& [tensor, begin, end] : header.entries) {
    if (begin != reached)
      throw Malformed(fmt::format("a hole or an overlap lies before the tensor {}", shown(tensor.name)));
    if (end < begin || end - begin != size_of(tensor)) {
      throw Malformed(fmt::format("the data_offsets of the tensor {} do not fit its shape", shown(tensor.name)));
    }
    if (end > data.size()) throw Malformed(fmt::format("it ends before the end of the tensor {}", shown(tensor.name)));
    tensor.data = data.substr(begin, end - begin);
    // To C++ a bool of another value is undefined.
    if (tensor.type == at::kBool &&
        std::any_of(tensor.data.begin(), tensor.data.end(), [](char c) { return c & ~1; })) {
      throw Malformed(fmt::format("the tensor {} has bools that are neither 0 nor 1", shown(tensor.name)));
    }
    reached = end;
    view.tensors.push_back(std::move(tensor));
  }
  if (reached != data.size()) throw Malformed("bytes follow its last tensor");
  return view;
}

Safetensors read_safetensors(std::string_view bytes) {
  SafetensorsView view = view_safetensors(bytes);
  return {copy_tensors(view), std::move(view.metadata)};
}

}  // namespace lockstep
