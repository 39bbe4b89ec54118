// THE algorithms of collectives among CPU ranks, over two ways to pass bytes around (rounds), which MPI and shared
// memory bring. One home for the order of sums, so both transports give the same bits.
//
// A round moves at most kStagingBytes to each rank: what is in flight stays in the caches, and memory is bounded
// whatever the size of the tensors. Views may lie in a device's memory; the data then goes through host memory.
//
//   all_reduce      for each chunk: everybody gets its slice from everybody, sums it, and publishes the sum. What fits
//                   kDirectBytes is published and summed by everybody instead: one round, the same bits
//   reduce_scatter  every rank's pieces to their ranks, which sum them
//   all_gather, broadcast   parcels published in turn
//   all_to_all      rounds as they are
//
// Cost    two ranks of one thread over shared memory, on a Xeon with AMX: 100 MB of FP32 in 18.6 ms, which memcpy takes
//         14.7 ms for, and 50 MB of BF16 in 11.6
// Sum     ((x0 + x1) + x2) + ... in FP32 in the order of ranks, rounded once. int64 wraps, as C's unsigned.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/backend.h"
#include "src/parallel/communicator.h"

namespace dither {

/// Bytes on the host that one rank gives another in a round.
struct Parcel {
  const void* data = nullptr;
  int64_t bytes = 0;
};

class HostCommunicator : public Communicator {
 public:
  /// host_memory: the backend's memory is the host's, so views can be read and written as they are.
  HostCommunicator(int rank, int size, Backend& backend, bool host_memory);

 protected:
  /// What a rank gives or gets in a round, at most: half of a second-level cache of 2 MiB. A quarter to four times as
  /// much measured no faster (shared memory, 2 ranks, all_reduce of 50 MB), from twice on slower.
  static constexpr int64_t kStagingBytes = int64_t{1} << 20;

  /// A round: to[q] goes to rank q, and from[q], whose `bytes` the caller has filled in, comes from it: its data lies
  /// at from[q].data, on a cache line, until the next round. The rank's own entries are not looked at.
  virtual void exchange(const std::vector<Parcel>& to, std::vector<Parcel>& from) = 0;
  /// A round in which everybody gets `mine`.
  virtual void publish(Parcel mine, std::vector<Parcel>& from) = 0;

  /// The most that a parcel may hold, a multiple of a cache line.
  int64_t parcel_bytes() const { return parcel_bytes_; }
  Backend& backend() const { return backend_; }
  bool host_memory() const { return host_memory_; }

  void do_all_reduce(View data, int64_t elements, Stream stream) override;
  void do_reduce_scatter(View to, ConstView from, int64_t each, Stream stream) override;
  void do_all_gather(View to, ConstView from, int64_t each, Stream stream) override;
  void do_all_to_all(const AllToAll& exchange, Stream stream) override;
  void do_broadcast(View data, int64_t elements, int root, Stream stream) override;
  void do_copy(void* to, const void* from, int64_t bytes, Stream stream) override;

 private:
  void reduce_directly(View data, int64_t elements, Stream stream);
  void reduce_chunk(View chunk, int64_t elements, Stream stream);
  char* fetched(const void* data, int64_t bytes, int64_t place, Stream stream);
  void arrived(Stream stream);
  void store(void* to, const void* from, int64_t bytes, Stream stream);
  void sum(View out, const void* own, int64_t elements);

  Backend& backend_;
  const bool host_memory_;
  const int64_t parcel_bytes_;
  std::vector<Parcel> to_, from_;   // [size] of the round at hand
  std::vector<const void*> terms_;  // [size] of the sum at hand
  std::vector<std::byte> bounce_;   // [size + 1, parcel_bytes] what came from a device, and a sum on its way there
};

}  // namespace dither
