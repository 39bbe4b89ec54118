// THE collectives among ranks. One interface, four transports: NCCL (GPUs), MPI (CPU ranks), host (shared memory
// between the processes of one node, for CUDA through host memory) and none (a world of one).
//
// All ranks of a group call the same collectives with the same sizes in the same order, from their main thread. Views
// lie in the backend's memory. A collective is given to a stream and done in its order; the CPU's are done when the
// call returns. Sums are sums, never means. On the CPU they are formed in FP32 in the order of ranks and rounded once,
// so their bits repeat; NCCL adds in the type of the data, in an order of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "kernels/view.h"

namespace dither {

/// Everybody sends a piece of `elements` to everybody, itself included: rank p gets `from` at from_offsets[p], and what
/// came from rank q lies in `to` at q * to_stride. Only ranks below `senders` send; the others only receive.
struct AllToAll {
  View to;                      // [senders, to_stride] out
  int64_t to_stride;            // elements, at least `elements`
  ConstView from;               // of a rank that sends
  const int64_t* from_offsets;  // [size] host memory, in elements
  int64_t elements;
  int senders;  // 1 .. size
};

/// What this rank has given to collectives so far.
struct Traffic {
  int64_t calls = 0;
  int64_t bytes = 0;   // that left this rank, by the least any algorithm can do: all_reduce 2 (W-1)/W of the data, ...
  double seconds = 0;  // that the calls took, waiting for other ranks included; on CUDA they only queue

  Traffic operator-(const Traffic& before) const {
    return {calls - before.calls, bytes - before.bytes, seconds - before.seconds};
  }
};

class Communicator {
 public:
  /// calls_alone: the transport is called for a world of one too (so that NCCL can be tried on one GPU).
  Communicator(int rank, int size, bool calls_alone = false)
      : rank_(rank), size_(size), calls_(size > 1 || calls_alone) {}
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  /// Whether collectives reach the transport; else results are only moved to their place.
  bool calls() const { return calls_; }

  /// data <- sum over ranks. Types: bf16, fp32, int64.
  void all_reduce(View data, int64_t elements, Stream stream);
  /// to [each] <- sum over ranks of from [size, each] at this rank's place. `to` may be that very place in `from`,
  /// whose other places then hold anything. Types: bf16, fp32.
  void reduce_scatter(View to, ConstView from, int64_t each, Stream stream);
  /// to [size, each] <- every rank's `from` [each]. `from` may be this rank's place in `to`. Any type.
  void all_gather(View to, ConstView from, int64_t each, Stream stream);
  /// Any type.
  void all_to_all(const AllToAll& exchange, Stream stream);
  /// data of every rank <- that of rank `root`. Any type.
  void broadcast(View data, int64_t elements, int root, Stream stream);

  /// A communicator among those ranks of this one that give the same `color`, ranked by `key` (rising, all different).
  /// All ranks of this one call it.
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;
  /// After an error: ends what has been given and waits for other ranks; nothing may follow. Does not throw.
  virtual void abort() {}
  /// One line for the start-up table: "MPI (Open MPI 4.1.4)".
  virtual std::string description() const = 0;

  const Traffic& traffic() const { return traffic_; }

 protected:
  // What a transport does, where calls() and at least one element; arguments have been checked.
  virtual void do_all_reduce(View data, int64_t elements, Stream stream) = 0;
  virtual void do_reduce_scatter(View to, ConstView from, int64_t each, Stream stream) = 0;
  virtual void do_all_gather(View to, ConstView from, int64_t each, Stream stream) = 0;
  virtual void do_all_to_all(const AllToAll& exchange, Stream stream) = 0;
  virtual void do_broadcast(View data, int64_t elements, int root, Stream stream) = 0;
  /// What a world of one does where a result has to move: to <- from, `bytes` of them, on the stream.
  virtual void do_copy(void* to, const void* from, int64_t bytes, Stream stream) = 0;

 private:
  template <class Call>
  void counted(int64_t bytes, const Call& call);

  const int rank_, size_;
  const bool calls_;
  Traffic traffic_;
};

}  // namespace dither
