#include "store/row_major.h"

#include <ATen/ops/empty.h>

#include <cstdint>

namespace lockstep {
namespace {

// Each of `count` matrices of places x channels becomes one of channels x places.
template <typename Element>
void transpose(const Element* from, Element* to, int64_t count, int64_t places, int64_t channels) {
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t place = 0; place < places; ++place) {
      for (int64_t channel = 0; channel < channels; ++channel)
        to[channel * places + place] = from[place * channels + channel];
    }
    from += places * channels;
    to += places * channels;
  }
}

}  // namespace

at::Tensor row_major(const at::Tensor& tensor) {
  // Conjugation and negation may be pending: marks on the tensor, not yet in its bytes.
  const at::Tensor host = tensor.detach().resolve_conj().resolve_neg().cpu();
  if (host.is_contiguous() || host.dim() != 4 || !host.is_contiguous(at::MemoryFormat::ChannelsLast)) {
    return host.contiguous();
  }
  const auto turn = [&](auto element) {
    using Element = decltype(element);
    at::Tensor turned = at::empty(host.sizes(), host.options().memory_format(at::MemoryFormat::Contiguous));
    transpose(static_cast<const Element*>(host.const_data_ptr()), static_cast<Element*>(turned.mutable_data_ptr()),
              host.size(0), host.size(2) * host.size(3), host.size(1));
    return turned;
  };
  if (host.element_size() == 4) return turn(uint32_t());
  if (host.element_size() == 2) return turn(uint16_t());
  return host.contiguous();
}

at::Tensor row_major_copy(const at::Tensor& tensor) {
  const at::Tensor values = row_major(tensor);
  return values.is_alias_of(tensor) ? values.clone() : values;
}

}  // namespace lockstep
