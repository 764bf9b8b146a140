// Our all-reduce: messages between pairs of ranks, moved on by the comm thread.
#pragma once

#include <ATen/core/Tensor.h>
#include <mpi.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "comm/range.h"
#include "world/call.h"
#include "world/comm_thread.h"

namespace lockstep {

/// A part of the buffer on its way to or from another rank.
struct Message {
  int peer = 0;
  Range range;
};

/// One round of a collective on one rank: all its messages are under way together. What comes in takes its place in the
/// buffer, or, with `combine`, is added to what is there: then all of it is for one range, and the own values and those
/// received are added in the order of the ranks.
struct Round {
  std::vector<Message> send;
  std::vector<Message> receive;
  bool combine = false;
};

/// The rounds of one rank. With a power of two of ranks: recursive halving, then doubling (R. Thakur, R. Rabenseifner,
/// W. Gropp: Optimization of Collective Communication Operations in MPICH, 2005), the distance growing from 1, so that
/// every element is the same binary tree over the ranks, ((0 1)(2 3))((4 5)(6 7)); up to `short_count` elements whole
/// buffers are exchanged instead, in the same tree. Otherwise every rank adds up one part, ((0 1) 2), and sends the sum
/// to all. Either way each rank sends and receives about twice the buffer at most, and an element's sum is made in one
/// order wherever it lies in the buffer: its bits are the same on all ranks, and do not depend on how tensors are put
/// into buffers.
std::vector<Round> allreduce_rounds(int rank, int size, int64_t count, int64_t short_count);

/// A range of `count` elements travels in parts of so many, the last one of what is left: about equal, and up to an
/// eighth longer than `usual`, then rounded up to a multiple of 64. A bucket is often a weight of a round size and its
/// bias, which is not worth a message of its own.
int64_t elements_of_a_part(int64_t count, int64_t usual);

/// Buffers for received parts, used again: fresh memory of some 100 kB costs more than the sum itself.
class ScratchPool {
 public:
  class Buffer {  // on cache lines of its own, not initialised
   public:
    explicit Buffer(size_t bytes);
    char* data() { return bytes_.get(); }
    size_t size() const { return size_; }

   private:
    struct Free {
      void operator()(char* bytes) const;
    };
    std::unique_ptr<char[], Free> bytes_;
    size_t size_;
  };
  std::unique_ptr<Buffer> take(size_t bytes);
  void give_back(std::unique_ptr<Buffer> buffer);

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Buffer>> free_;
  size_t bytes_ = 0;
};

/// The tag of the `number`-th all-reduce, where MPI has tags up to `most`. Ranks whose calls differ in length, type or
/// operation have different tags (but once in 65536, or where tags are few), so their messages do not meet.
int allreduce_tag(uint32_t number, const Call& call, uint32_t most);

/// An all-reduce in place. `buffer` is dense; `tag` is the same on all ranks and no other's under way.
class AllreduceOperation : public MpiOperation {
 public:
  struct Options {
    at::Tensor buffer;
    MPI_Datatype type;
    MPI_Op op;
    MPI_Comm comm;
    int rank;
    int size;
    int tag;
    std::shared_ptr<ScratchPool> pool;
    bool several_hosts;
    /// Whether op(a, b) has the bits of op(b, a), as sums have. The MIN and MAX of numbers that may be NaN or zeros of
    /// both signs have not: whole buffers are not exchanged for them, for each rank would then take its own first.
    bool same_either_way = true;
    Call call = {};  ///< as other ranks may ask for it
  };
  explicit AllreduceOperation(Options options);
  ~AllreduceOperation() override;

 protected:
  void start() override;
  bool poll() override;
  std::string waits_for() const override;

 private:
  static int64_t most_exchanged(const Options& options);  // bytes
  void begin_round();
  void add(const char* values, char* to, int64_t count);
  void combine(const Round& round);
  void request_ended(size_t request);
  char* at(int64_t element) { return data_ + element * element_bytes_; }

  Options my_;
  char* data_;
  int64_t element_bytes_;
  int64_t usual_part_;  // elements
  std::vector<Round> rounds_;
  size_t round_ = 0;
  std::unique_ptr<ScratchPool::Buffer> scratch_;
  // Of the round under way: receives first, then sends.
  std::vector<MPI_Request> requests_;
  size_t receives_ = 0;
  size_t left_ = 0;
  std::vector<int> done_;
  std::vector<char> awaited_;  // requests that the sum of each part waits for; empty where all is added at the end
  bool adds_what_it_sends_ = false;
};

}  // namespace lockstep
