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

// `to` is row-major, of the same sizes and type.
void copy(const at::Tensor& host, at::Tensor& to) {
  const auto turn = [&](auto element) {
    using Element = decltype(element);
    transpose(static_cast<const Element*>(host.const_data_ptr()), static_cast<Element*>(to.mutable_data_ptr()),
              host.size(0), host.size(2) * host.size(3), host.size(1));
  };
  const bool channels_last =
      !host.is_contiguous() && host.dim() == 4 && host.is_contiguous(at::MemoryFormat::ChannelsLast);
  if (channels_last && host.element_size() == 4) return turn(uint32_t());
  if (channels_last && host.element_size() == 2) return turn(uint16_t());
  to.copy_(host);
}

// Conjugation and negation may be pending: marks on the tensor, not yet in its bytes.
at::Tensor on_host(const at::Tensor& tensor) { return tensor.detach().resolve_conj().resolve_neg().cpu(); }

}  // namespace

at::Tensor row_major(const at::Tensor& tensor) {
  const at::Tensor host = on_host(tensor);
  if (host.is_contiguous()) return host;
  at::Tensor copied = at::empty(host.sizes(), host.options().memory_format(at::MemoryFormat::Contiguous));
  copy(host, copied);
  return copied;
}

at::Tensor row_major_copy(const at::Tensor& tensor, const at::Tensor& memory) {
  const at::Tensor values = tensor.detach();
  const bool fits = memory.defined() && memory.is_cpu() && memory.is_contiguous() &&
                    memory.scalar_type() == values.scalar_type() && memory.sizes() == values.sizes();
  at::Tensor copied =
      fits ? memory
           : at::empty(values.sizes(), values.options().device(at::kCPU).memory_format(at::MemoryFormat::Contiguous));
  if (values.is_cpu()) {
    copy(on_host(values), copied);
  } else {
    copied.copy_(values);
  }
  return copied;
}

}  // namespace lockstep
