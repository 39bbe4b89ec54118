// What every transport shares: the arguments are checked, the traffic is counted, and a world of one is served here.
#include "src/parallel/communicator.h"

#include <chrono>

#include "base/error.h"

namespace dither {

namespace {

bool is_sum_type(DType type) { return type == DType::bf16 || type == DType::fp32; }

/// Whether two pieces of memory have no byte in common.
bool disjoint(const void* a, int64_t a_bytes, const void* b, int64_t b_bytes) {
  const auto first = reinterpret_cast<uintptr_t>(a);
  const auto second = reinterpret_cast<uintptr_t>(b);
  return first + static_cast<uintptr_t>(a_bytes) <= second || second + static_cast<uintptr_t>(b_bytes) <= first;
}

/// The arguments that reduce_scatter and all_gather have in common: a view of `each` elements and one of size * each,
/// in which the former either is the rank's own place, or has no part.
void check_part_and_whole(ConstView part, ConstView whole, int64_t each, int rank, int size) {
  DITHER_ASSERT(each >= 0);
  if (each == 0) return;
  DITHER_ASSERT(part && whole && part.type == whole.type && part.type != DType::none);
  const int64_t bytes = each * size_of(part.type);
  DITHER_ASSERT(part.data == whole.at(rank * each).data || disjoint(part.data, bytes, whole.data, size * bytes));
}

void check_all_to_all(const AllToAll& exchange, int rank, int size) {
  DITHER_ASSERT(exchange.senders >= 1 && exchange.senders <= size);
  DITHER_ASSERT(exchange.elements >= 0 && exchange.to_stride >= exchange.elements);
  if (exchange.elements == 0) return;
  DITHER_ASSERT(exchange.to && exchange.to.type != DType::none);
  if (rank >= exchange.senders) return;
  DITHER_ASSERT(exchange.from && exchange.from.type == exchange.to.type && exchange.from_offsets != nullptr);
  const int64_t element_bytes = size_of(exchange.to.type);
  const int64_t to_bytes = ((exchange.senders - 1) * exchange.to_stride + exchange.elements) * element_bytes;
  for (int p = 0; p < size; ++p) {
    DITHER_ASSERT(exchange.from_offsets[p] >= 0);
    DITHER_ASSERT(disjoint(exchange.from.at(exchange.from_offsets[p]).data, exchange.elements * element_bytes,
                           exchange.to.data, to_bytes));
  }
}

}  // namespace

template <class Call>
void Communicator::counted(int64_t bytes, const Call& call) {
  const auto begin = std::chrono::steady_clock::now();
  call();
  traffic_.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  traffic_.bytes += bytes;
  ++traffic_.calls;
}

void Communicator::all_reduce(View data, int64_t elements, Stream stream) {
  DITHER_ASSERT(elements >= 0);
  if (elements == 0) return;
  DITHER_ASSERT(data && (is_sum_type(data.type) || data.type == DType::int64));
  const int64_t bytes = elements * size_of(data.type);
  counted(2 * (size_ - 1) * bytes / size_, [&] {
    if (calls_) do_all_reduce(data, elements, stream);
  });
}

void Communicator::reduce_scatter(View to, ConstView from, int64_t each, Stream stream) {
  check_part_and_whole(to, from, each, rank_, size_);
  if (each == 0) return;
  DITHER_ASSERT(is_sum_type(to.type));
  const int64_t bytes = each * size_of(to.type);
  counted((size_ - 1) * bytes, [&] {
    if (calls_) return do_reduce_scatter(to, from, each, stream);
    if (to.data != from.data) do_copy(to.data, from.data, bytes, stream);
  });
}

void Communicator::all_gather(View to, ConstView from, int64_t each, Stream stream) {
  check_part_and_whole(from, to, each, rank_, size_);
  if (each == 0) return;
  const int64_t bytes = each * size_of(to.type);
  counted((size_ - 1) * bytes, [&] {
    if (calls_) return do_all_gather(to, from, each, stream);
    if (to.data != from.data) do_copy(to.data, from.data, bytes, stream);
  });
}

void Communicator::all_to_all(const AllToAll& exchange, Stream stream) {
  check_all_to_all(exchange, rank_, size_);
  if (exchange.elements == 0) return;
  const int64_t bytes = exchange.elements * size_of(exchange.to.type);
  counted(rank_ < exchange.senders ? (size_ - 1) * bytes : 0, [&] {
    if (calls_) return do_all_to_all(exchange, stream);
    do_copy(exchange.to.data, exchange.from.at(exchange.from_offsets[0]).data, bytes, stream);
  });
}

void Communicator::broadcast(View data, int64_t elements, int root, Stream stream) {
  DITHER_ASSERT(elements >= 0 && root >= 0 && root < size_);
  if (elements == 0) return;
  DITHER_ASSERT(data && data.type != DType::none);
  // Every rank but the root receives the data once, and any rank may pass it on: the mean over ranks.
  const int64_t bytes = elements * size_of(data.type);
  counted((size_ - 1) * bytes / size_, [&] {
    if (calls_) do_broadcast(data, elements, root, stream);
  });
}

}  // namespace dither
