// Rounds through shared memory. Every rank owns two buffers of `size` slots, used in turn: it writes its parcels into
// one, meets the others at the barrier, and they read. By the time it writes there again, two rounds later, everybody
// has come to the barrier between, and so has done with reading. One barrier a round.
//
//   slot [rank][parity][q]    a cache line with the parcel's size, then the parcel from `rank` to q; what is published
//                             lies in slot 0
#include "src/parallel/shared_memory_communicator.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "src/parallel/host_collectives.h"
#include "src/parallel/shared_memory.h"
#include "src/parallel/single_rank.h"

namespace dither {

namespace {

constexpr int64_t kSlotHeader = 64;  // its size; a cache line, so that parcels begin on one

class SharedMemoryCommunicator final : public HostCommunicator {
 public:
  SharedMemoryCommunicator(const std::string& name, int rank, int size, Backend& backend, bool host_memory,
                           double seconds)
      : HostCommunicator(rank, size, backend, host_memory),
        name_(name),
        slot_bytes_(kSlotHeader + parcel_bytes()),
        memory_(name, rank, size, 2 * slot_bytes_ * size * size, seconds) {}

  std::unique_ptr<Communicator> split(int color, int key) override;
  std::string description() const override {
    return host_memory() ? "shared memory of this node" : "shared memory of this node, through host memory";
  }

 protected:
  void exchange(const std::vector<Parcel>& to, std::vector<Parcel>& from) override {
    for (int q = 0; q < size(); ++q) {
      if (q != rank()) write(q, to[q]);
    }
    memory_.barrier();
    for (int q = 0; q < size(); ++q) {
      if (q != rank()) read(q, rank(), from[q]);
    }
    parity_ = 1 - parity_;
  }

  void publish(Parcel mine, std::vector<Parcel>& from) override {
    write(0, mine);
    memory_.barrier();
    for (int q = 0; q < size(); ++q) {
      if (q != rank()) read(q, 0, from[q]);
    }
    parity_ = 1 - parity_;
  }

 private:
  std::byte* slot(int owner, int number) const {
    const int64_t index = (int64_t{owner} * 2 + parity_) * size() + number;
    return memory_.memory() + index * slot_bytes_;
  }

  void write(int number, Parcel parcel) {
    DITHER_ASSERT(parcel.bytes <= parcel_bytes());
    std::byte* place = slot(rank(), number);
    std::memcpy(place, &parcel.bytes, sizeof parcel.bytes);
    if (parcel.bytes > 0) std::memcpy(place + kSlotHeader, parcel.data, static_cast<size_t>(parcel.bytes));
  }

  void read(int owner, int number, Parcel& parcel) const {
    const std::byte* place = slot(owner, number);
    int64_t sent_bytes = 0;
    std::memcpy(&sent_bytes, place, sizeof sent_bytes);
    DITHER_ASSERT(sent_bytes == parcel.bytes);  // else ranks are not in the same collective
    parcel.data = place + kSlotHeader;
  }

  const std::string name_;
  const int64_t slot_bytes_;
  SharedMemory memory_;
  int parity_ = 0;
  int splits_ = 0;
};

std::unique_ptr<Communicator> SharedMemoryCommunicator::split(int color, int key) {
  const std::pair<int, int> mine{color, key};
  std::vector<Parcel> all(static_cast<size_t>(size()), Parcel{nullptr, sizeof mine});
  publish({&mine, sizeof mine}, all);
  int child_rank = 0, child_size = 1;
  for (int q = 0; q < size(); ++q) {
    if (q == rank()) continue;
    const auto& [their_color, their_key] = *static_cast<const std::pair<int, int>*>(all[q].data);
    if (their_color != color) continue;
    DITHER_ASSERT(their_key != key);
    ++child_size;
    if (their_key < key) ++child_rank;
  }
  const std::string child = fmt::format("{}.{}.{}", name_, splits_++, color);
  if (child_size == 1) return make_single_rank(backend());
  return make_shared_memory_communicator(child, child_rank, child_size, backend(), host_memory());
}

}  // namespace

std::unique_ptr<Communicator> make_shared_memory_communicator(const std::string& name, int rank, int size,
                                                              Backend& backend, bool host_memory, double seconds) {
  DITHER_ASSERT(size > 1);
  return std::make_unique<SharedMemoryCommunicator>(name, rank, size, backend, host_memory, seconds);
}

}  // namespace dither
