// The all-reduce of ranks on one host: each reads the others' values where they lie.
#pragma once

#include <ATen/core/Tensor.h>
#include <mpi.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/range.h"
#include "comm/shared/board.h"
#include "world/call.h"
#include "world/comm_thread.h"

namespace lockstep {

/// An all-reduce in place, in pieces of SharedBoard::kPlaceBytes. Each rank shows its values, or a copy where they lie
/// outside of SharedMemory::take. Then each adds up one part of a piece, block by block, and copies the other parts as
/// their sums appear. With copies of two ranks, or of few bytes, each adds up everything itself: one wait less. Sums
/// are made in the order of AllreduceOperation (comm/mpi/allreduce.h), so bits are the same, whoever makes them.
class SharedAllreduce : public MpiOperation {
 public:
  struct Options {
    at::Tensor buffer;  ///< dense
    MPI_Datatype type;
    MPI_Op op;
    MPI_Comm comm;
    int32_t op_name;  ///< c10d's
    std::shared_ptr<SharedBoard> board;
    Call call;  ///< as other ranks may ask for it
    /// The call of a rank that has said these bytes, type and operation.
    std::function<Call(int64_t bytes, int32_t type, int32_t op_name)> call_of;
  };
  explicit SharedAllreduce(Options options);

 protected:
  void start() override;
  bool poll() override;
  std::string waits_for() const override;

 private:
  struct Piece {
    uint64_t number = 0;
    Range range;
    char* copy = nullptr;                    // what others read; null: the buffer itself
    std::vector<const char*> values;         // of each rank, when all have begun
    bool everywhere = false;                 // each rank adds up everything
    std::vector<int64_t> blocks_taken = {};  // of each rank's part
  };

  // Each moves pieces_[index] on and says whether it is through with it.
  bool show(size_t index);
  bool add_up(size_t index);
  bool take(size_t index);
  bool leave(size_t index);

  bool all_are_at(uint64_t number, uint64_t step) const;
  void look_at_others(Piece& piece);
  [[noreturn]] void tell_difference(const Piece& piece) const;
  Range part(const Piece& piece, int rank) const;  // of the piece
  int64_t blocks(int64_t elements) const { return (elements + block_ - 1) / block_; }
  Range block(const Range& range, int64_t index) const;
  void add_all(const Piece& piece, const Range& range);
  void add_others(const Piece& piece, const Range& range);
  const char* sum_of(const Piece& piece, int first_rank, int ranks, const Range& range, size_t level);
  const char* values_of(const Piece& piece, int rank, const Range& range) const;
  char* own(const Piece& piece, int64_t element) { return data_ + (piece.range.first + element) * element_bytes_; }
  char* copy_to_scratch(const char* from, int64_t count, size_t level);
  void add(const char* from, char* to, int64_t count);
  void worked(const Range& range);

  Options my_;
  SharedBoard& board_;
  int rank_;
  int size_;
  char* data_;
  int64_t element_bytes_;
  int64_t block_;  // elements
  std::vector<Piece> pieces_;
  // How many pieces are through each stage.
  size_t shown_ = 0;
  size_t added_ = 0;
  size_t taken_ = 0;
  size_t left_ = 0;
  int64_t blocks_added_ = 0;  // of the next piece
  int64_t budget_ = 0;        // bytes, of this poll
  uint64_t fruitless_ = 0;    // polls
};

}  // namespace lockstep
