// How c10d's types and reductions are said to MPI.
#pragma once

#include <c10/core/ScalarType.h>
#include <mpi.h>

#include <torch/csrc/distributed/c10d/Types.hpp>

namespace lockstep {

/// MPI's names for element types and reductions. bfloat16 has none in Open MPI 4.1, so this owns a two-byte type and
/// operations that widen each element to float32, combine, and round to nearest even. Freed before MPI_Finalize.
class MpiTypes {
 public:
  MpiTypes();
  ~MpiTypes();
  MpiTypes(const MpiTypes&) = delete;
  MpiTypes& operator=(const MpiTypes&) = delete;

  /// float32, float64, bfloat16, int32, int64 and uint8; anything else throws c10::Error naming the type.
  MPI_Datatype datatype(c10::ScalarType type) const;
  /// SUM, AVG (summed here, divided by the caller), PRODUCT, MIN and MAX, and for integers BAND, BOR and BXOR.
  MPI_Op op(const c10d::ReduceOp& op, c10::ScalarType type) const;

 private:
  MPI_Datatype bfloat16_ = MPI_DATATYPE_NULL;
  MPI_Op bfloat16_sum_ = MPI_OP_NULL;
  MPI_Op bfloat16_product_ = MPI_OP_NULL;
  MPI_Op bfloat16_min_ = MPI_OP_NULL;
  MPI_Op bfloat16_max_ = MPI_OP_NULL;
};

}  // namespace lockstep
