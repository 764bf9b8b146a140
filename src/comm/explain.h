// What errors of GPUs and communication mean to a person.
#pragma once

#include <c10/util/Exception.h>

#include "lockstep/error.h"

namespace lockstep {

/// Message, exit code and hint for an error of LibTorch: of CUDA, NCCL, the store by which ranks find each other, or
/// memory; any other becomes ExitCode::internal with its own text. docs/gpu.md has the table.
Error explain(const c10::Error& error);

/// The Error that the exception being handled is to a person: itself, what `explain` makes of it, or one with
/// ExitCode::internal and the exception's text.
Error current_error();

}  // namespace lockstep
