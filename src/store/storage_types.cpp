#include "store/storage_types.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <span>

#include "store/zip_reader.h"

namespace lockstep {
namespace {

struct PythonType {
  std::string_view name;
  c10::ScalarType type;
};
// Python's torch/storage.py, _dtype_to_storage_type_map, without quantized types, whose numbers alone say nothing.
constexpr PythonType kStorageClasses[] = {
    {"torch.FloatStorage", at::kFloat},
    {"torch.DoubleStorage", at::kDouble},
    {"torch.HalfStorage", at::kHalf},
    {"torch.BFloat16Storage", at::kBFloat16},
    {"torch.LongStorage", at::kLong},
    {"torch.IntStorage", at::kInt},
    {"torch.ShortStorage", at::kShort},
    {"torch.CharStorage", at::kChar},
    {"torch.ByteStorage", at::kByte},
    {"torch.BoolStorage", at::kBool},
    {"torch.ComplexFloatStorage", at::kComplexFloat},
    {"torch.ComplexDoubleStorage", at::kComplexDouble},
};
// _new_dtypes there: their storage is of bytes, and _rebuild_tensor_v3 names the type.
constexpr std::string_view kUntyped = "torch.storage.UntypedStorage";
constexpr PythonType kOthers[] = {
    {"torch.uint16", at::kUInt16},
    {"torch.uint32", at::kUInt32},
    {"torch.uint64", at::kUInt64},
    {"torch.complex32", at::kComplexHalf},
    {"torch.float8_e5m2", at::kFloat8_e5m2},
    {"torch.float8_e4m3fn", at::kFloat8_e4m3fn},
    {"torch.float8_e5m2fnuz", at::kFloat8_e5m2fnuz},
    {"torch.float8_e4m3fnuz", at::kFloat8_e4m3fnuz},
    {"torch.float8_e8m0fnu", at::kFloat8_e8m0fnu},
};

c10::ScalarType find(std::span<const PythonType> types, std::string_view name) {
  for (const PythonType& known : types) {
    if (known.name == name) return known.type;
  }
  throw Malformed(fmt::format("it holds numbers of an unknown type ({})", name));
}

}  // namespace

bool has_storage_class(c10::ScalarType type) {
  return std::any_of(std::begin(kStorageClasses), std::end(kStorageClasses),
                     [&](const PythonType& known) { return known.type == type; });
}

c10::ScalarType type_of_storage(std::string_view storage_class) {
  return storage_class == kUntyped ? at::kByte : find(kStorageClasses, storage_class);
}

c10::ScalarType type_without_storage(std::string_view name) { return find(kOthers, name); }

}  // namespace lockstep
