#include "store/digest.h"

#include <c10/core/Layout.h>
#include <c10/core/ScalarType.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <sstream>

#include "lockstep/error.h"
#include "store/row_major.h"

// The whole of xxHash in this file alone: no library to link, and none to find at run time.
#define XXH_INLINE_ALL
#include <xxhash.h>

namespace lockstep {

std::string digest_bytes(std::string_view bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

std::string digest_tensor(const at::Tensor& tensor) {
  if (!tensor.defined()) return digest_bytes("undefined");
  if (tensor.layout() != c10::kStrided) {
    std::ostringstream layout;
    layout << tensor.layout();
    throw Error(ExitCode::internal, fmt::format("a tensor of layout {} has no digest", layout.str()),
                "give dense tensors only");
  }
  const at::Tensor flat = row_major(tensor);
  const std::string_view elements(flat.nbytes() > 0 ? static_cast<const char*>(flat.const_data_ptr()) : "",
                                  flat.nbytes());
  return digest_tensor(flat, digest_bytes(elements));
}

std::string digest_tensor(const at::Tensor& tensor, const std::string& digest_of_bytes) {
  return digest_bytes(
      fmt::format("{} [{}] {}", c10::toString(tensor.scalar_type()), fmt::join(tensor.sizes(), ", "), digest_of_bytes));
}

}  // namespace lockstep
