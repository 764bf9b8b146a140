// Text that other programs must be able to read.
#pragma once

#include <string>
#include <string_view>

namespace lockstep {

/// Whether the bytes are UTF-8 as RFC 3629 has it: no overlong form, no surrogate, nothing above U+10FFFF. Python's
/// decoder and protobuf's take the same.
bool is_utf8(std::string_view bytes);

/// For messages: what is not printable ASCII as \\xNN, a long text cut short.
std::string escaped(std::string_view bytes);

}  // namespace lockstep
