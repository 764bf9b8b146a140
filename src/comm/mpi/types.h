// How c10d's types and reductions are said to MPI.
#pragma once

#include <c10/core/ScalarType.h>
#include <mpi.h>

#include <torch/csrc/distributed/c10d/Types.hpp>

namespace lockstep {

/// "float32", as PyTorch names types in Python.
const char* type_name(c10::ScalarType type);
/// "sum", "avg", "max" …
const char* op_name(c10d::ReduceOp::RedOpType op);

/// MPI's names for the element types and reductions that it adds up: what is only moved goes as bytes. bfloat16 and
/// float16 have none in Open MPI 4.1, so this owns a two-byte type and operations that widen each element to float32,
/// combine, and round to nearest even. Freed before MPI_Finalize.
class MpiTypes {
 public:
  MpiTypes();
  ~MpiTypes();
  MpiTypes(const MpiTypes&) = delete;
  MpiTypes& operator=(const MpiTypes&) = delete;

  /// float16, bfloat16, float32, float64, complex64, complex128, uint8, int8, int16, int32 and int64; anything else
  /// throws c10::Error naming the type.
  MPI_Datatype datatype(c10::ScalarType type) const;
  /// SUM, AVG (summed here, divided by the caller) and PRODUCT; MIN and MAX but for complex numbers; for integers BAND,
  /// BOR and BXOR.
  MPI_Op op(const c10d::ReduceOp& op, c10::ScalarType type) const;

 private:
  struct Operations {
    MPI_Op sum = MPI_OP_NULL, product = MPI_OP_NULL, min = MPI_OP_NULL, max = MPI_OP_NULL;
    template <typename T>
    void create();
    void free();
  };

  MPI_Datatype two_bytes_ = MPI_DATATYPE_NULL;
  Operations bfloat16_;
  Operations float16_;
};

}  // namespace lockstep
