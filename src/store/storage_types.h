// The types of numbers in a .pth file: what Python's pickles call them, and what LibTorch does.
#pragma once

#include <c10/core/ScalarType.h>

#include <string_view>

namespace lockstep {

/// Whether PyTorch has a storage class for the type, so that torch.load and read_pickled_tensors read what LibTorch's
/// Pickler writes of it.
bool has_storage_class(c10::ScalarType type);

/// The type of the numbers in a storage of a class, such as "torch.FloatStorage"; bytes for one without a type. Throws
/// Malformed.
c10::ScalarType type_of_storage(std::string_view storage_class);

/// The type that has no storage class, such as "torch.uint16". Throws Malformed.
c10::ScalarType type_without_storage(std::string_view name);

}  // namespace lockstep
