#include "comm/mpi/types.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>

#include <algorithm>

namespace lockstep {
namespace {

struct Sum {
  float operator()(float a, float b) const { return a + b; }
};
struct Product {
  float operator()(float a, float b) const { return a * b; }
};
struct Min {
  float operator()(float a, float b) const { return std::min(a, b); }
};
struct Max {
  float operator()(float a, float b) const { return std::max(a, b); }
};

template <typename Combine>
void combine_bfloat16(void* in, void* inout, int* count, MPI_Datatype*) {
  const auto* from = static_cast<const c10::BFloat16*>(in);
  auto* to = static_cast<c10::BFloat16*>(inout);
  for (int i = 0; i < *count; ++i) {
    to[i] = c10::BFloat16(Combine()(static_cast<float>(from[i]), static_cast<float>(to[i])));
  }
}

}  // namespace

MpiTypes::MpiTypes() {
  MPI_Type_contiguous(2, MPI_BYTE, &bfloat16_);
  MPI_Type_commit(&bfloat16_);
  MPI_Op_create(&combine_bfloat16<Sum>, /*commute=*/1, &bfloat16_sum_);
  MPI_Op_create(&combine_bfloat16<Product>, 1, &bfloat16_product_);
  MPI_Op_create(&combine_bfloat16<Min>, 1, &bfloat16_min_);
  MPI_Op_create(&combine_bfloat16<Max>, 1, &bfloat16_max_);
}

MpiTypes::~MpiTypes() {
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (finalized != 0) return;
  for (MPI_Op* op : {&bfloat16_sum_, &bfloat16_product_, &bfloat16_min_, &bfloat16_max_}) MPI_Op_free(op);
  MPI_Type_free(&bfloat16_);
}

MPI_Datatype MpiTypes::datatype(c10::ScalarType type) const {
  switch (type) {
    case c10::ScalarType::Float:
      return MPI_FLOAT;
    case c10::ScalarType::Double:
      return MPI_DOUBLE;
    case c10::ScalarType::BFloat16:
      return bfloat16_;
    case c10::ScalarType::Int:
      return MPI_INT32_T;
    case c10::ScalarType::Long:
      return MPI_INT64_T;
    case c10::ScalarType::Byte:
      return MPI_UINT8_T;
    default:
      TORCH_CHECK(false, "the MPI backend has no type for tensors of ", c10::toString(type));
  }
}

MPI_Op MpiTypes::op(const c10d::ReduceOp& op, c10::ScalarType type) const {
  const bool bfloat16 = type == c10::ScalarType::BFloat16;
  const bool integral = c10::isIntegralType(type, /*includeBool=*/false);
  switch (static_cast<c10d::ReduceOp::RedOpType>(op)) {
    case c10d::ReduceOp::SUM:
    case c10d::ReduceOp::AVG:
      return bfloat16 ? bfloat16_sum_ : MPI_SUM;
    case c10d::ReduceOp::PRODUCT:
      return bfloat16 ? bfloat16_product_ : MPI_PROD;
    case c10d::ReduceOp::MIN:
      return bfloat16 ? bfloat16_min_ : MPI_MIN;
    case c10d::ReduceOp::MAX:
      return bfloat16 ? bfloat16_max_ : MPI_MAX;
    case c10d::ReduceOp::BAND:
      if (integral) return MPI_BAND;
      break;
    case c10d::ReduceOp::BOR:
      if (integral) return MPI_BOR;
      break;
    case c10d::ReduceOp::BXOR:
      if (integral) return MPI_BXOR;
      break;
    default:
      break;
  }
  TORCH_CHECK(false, "the MPI backend has no such reduction for tensors of ", c10::toString(type));
}

}  // namespace lockstep
