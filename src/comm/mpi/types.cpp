#include "comm/mpi/types.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>
#include <c10/util/Half.h>

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

template <typename T, typename Combine>
void combine(void* in, void* inout, int* count, MPI_Datatype*) {
  const auto* from = static_cast<const T*>(in);
  auto* to = static_cast<T*>(inout);
  for (int i = 0; i < *count; ++i) to[i] = T(Combine()(static_cast<float>(from[i]), static_cast<float>(to[i])));
}

}  // namespace

const char* type_name(c10::ScalarType type) {
  switch (type) {
    case c10::ScalarType::Half:
      return "float16";
    case c10::ScalarType::BFloat16:
      return "bfloat16";
    case c10::ScalarType::Float:
      return "float32";
    case c10::ScalarType::Double:
      return "float64";
    case c10::ScalarType::ComplexFloat:
      return "complex64";
    case c10::ScalarType::ComplexDouble:
      return "complex128";
    case c10::ScalarType::Byte:
      return "uint8";
    case c10::ScalarType::Char:
      return "int8";
    case c10::ScalarType::Short:
      return "int16";
    case c10::ScalarType::Int:
      return "int32";
    case c10::ScalarType::Long:
      return "int64";
    case c10::ScalarType::Bool:
      return "bool";
    default:
      return c10::toString(type);
  }
}

const char* op_name(c10d::ReduceOp::RedOpType op) {
  switch (op) {
    case c10d::ReduceOp::SUM:
      return "sum";
    case c10d::ReduceOp::AVG:
      return "avg";
    case c10d::ReduceOp::PRODUCT:
      return "product";
    case c10d::ReduceOp::MIN:
      return "min";
    case c10d::ReduceOp::MAX:
      return "max";
    case c10d::ReduceOp::BAND:
      return "band";
    case c10d::ReduceOp::BOR:
      return "bor";
    case c10d::ReduceOp::BXOR:
      return "bxor";
    default:
      return "other";
  }
}

template <typename T>
void MpiTypes::Operations::create() {
  MPI_Op_create(&combine<T, Sum>, /*commute=*/1, &sum);
  MPI_Op_create(&combine<T, Product>, 1, &product);
  MPI_Op_create(&combine<T, Min>, 1, &min);
  MPI_Op_create(&combine<T, Max>, 1, &max);
}

void MpiTypes::Operations::free() {
  for (MPI_Op* op : {&sum, &product, &min, &max}) MPI_Op_free(op);
}

MpiTypes::MpiTypes() {
  MPI_Type_contiguous(2, MPI_BYTE, &two_bytes_);
  MPI_Type_commit(&two_bytes_);
  bfloat16_.create<c10::BFloat16>();
  float16_.create<c10::Half>();
}

MpiTypes::~MpiTypes() {
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (finalized != 0) return;
  bfloat16_.free();
  float16_.free();
  MPI_Type_free(&two_bytes_);
}

MPI_Datatype MpiTypes::datatype(c10::ScalarType type) const {
  switch (type) {
    case c10::ScalarType::Half:
    case c10::ScalarType::BFloat16:
      return two_bytes_;
    case c10::ScalarType::Float:
      return MPI_FLOAT;
    case c10::ScalarType::Double:
      return MPI_DOUBLE;
    case c10::ScalarType::ComplexFloat:
      return MPI_C_FLOAT_COMPLEX;
    case c10::ScalarType::ComplexDouble:
      return MPI_C_DOUBLE_COMPLEX;
    case c10::ScalarType::Byte:
      return MPI_UINT8_T;
    case c10::ScalarType::Char:
      return MPI_INT8_T;
    case c10::ScalarType::Short:
      return MPI_INT16_T;
    case c10::ScalarType::Int:
      return MPI_INT32_T;
    case c10::ScalarType::Long:
      return MPI_INT64_T;
    default:
      TORCH_CHECK(
          false, "the MPI backend adds up no tensors of ", type_name(type),
          ": it only broadcasts, gathers and sends them; convert them before, for instance to float32 or uint8");
  }
}

MPI_Op MpiTypes::op(const c10d::ReduceOp& op, c10::ScalarType type) const {
  const Operations* const own = type == c10::ScalarType::BFloat16 ? &bfloat16_
                                : type == c10::ScalarType::Half   ? &float16_
                                                                  : nullptr;
  const bool integral = c10::isIntegralType(type, /*includeBool=*/false);
  const bool ordered = !c10::isComplexType(type);
  const auto name = static_cast<c10d::ReduceOp::RedOpType>(op);
  switch (name) {
    case c10d::ReduceOp::SUM:
    case c10d::ReduceOp::AVG:
      return own != nullptr ? own->sum : MPI_SUM;
    case c10d::ReduceOp::PRODUCT:
      return own != nullptr ? own->product : MPI_PROD;
    case c10d::ReduceOp::MIN:
      if (ordered) return own != nullptr ? own->min : MPI_MIN;
      break;
    case c10d::ReduceOp::MAX:
      if (ordered) return own != nullptr ? own->max : MPI_MAX;
      break;
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
  TORCH_CHECK(false, "the MPI backend has no reduction '", op_name(name), "' for tensors of ", type_name(type));
}

}  // namespace lockstep
