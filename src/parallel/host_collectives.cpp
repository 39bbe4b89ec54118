// Collectives among CPU ranks: see host_collectives.h.
#include "src/parallel/host_collectives.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "src/parallel/single_rank.h"

namespace dither {

namespace {

constexpr int64_t kCacheLine = 64;

// Up to here an all_reduce is one round of everything to everybody: a round costs some microseconds, more than copying
// and adding this much.
constexpr int64_t kDirectBytes = 16 << 10;

// Elements whose partial sums are kept at a time: 8 KiB of FP32, a sixth of a first-level cache.
constexpr int64_t kSumBlock = 2048;

int64_t rounded_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

float widened(float x) { return x; }
float widened(Bf16 x) { return to_float(x); }
uint64_t widened(uint64_t x) { return x; }

template <class T, class Sum>
T narrowed(Sum x) {
  if constexpr (std::is_same_v<T, Bf16>) {
    return round_nearest(x);
  } else {
    return x;
  }
}

/// out[i] = ((terms[0][i] + terms[1][i]) + ...), which may be one of the terms.
template <class T>
void sum_terms(T* out, const std::vector<const void*>& terms, int64_t elements) {
  using Sum = decltype(widened(T{}));
  const auto term = [&](size_t q) { return static_cast<const T*>(terms[q]); };
  const T* first = term(0);
  const T* second = term(1);
  // Two BF16 terms go through `sums` as well: with the rounding in the loop of the loads it takes 1.7 times as long.
  if (terms.size() == 2 && std::is_same_v<T, Sum>) {
#pragma omp simd
    for (int64_t i = 0; i < elements; ++i) out[i] = narrowed<T>(widened(first[i]) + widened(second[i]));
    return;
  }
  alignas(kCacheLine) Sum sums[kSumBlock];
  for (int64_t begin = 0; begin < elements; begin += kSumBlock) {
    const int64_t count = std::min(kSumBlock, elements - begin);
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) sums[i] = widened(first[begin + i]) + widened(second[begin + i]);
    for (size_t q = 2; q < terms.size(); ++q) {
      const T* next = term(q) + begin;
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) sums[i] += widened(next[i]);
    }
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) out[begin + i] = narrowed<T>(sums[i]);
  }
}

}  // namespace

HostCommunicator::HostCommunicator(int rank, int size, Backend& backend, bool host_memory)
    : Communicator(rank, size),
      backend_(backend),
      host_memory_(host_memory),
      parcel_bytes_(std::max(kCacheLine, kStagingBytes / size / kCacheLine * kCacheLine)),
      to_(static_cast<size_t>(size)),
      from_(static_cast<size_t>(size)),
      terms_(static_cast<size_t>(size)),
      bounce_(host_memory ? 0 : static_cast<size_t>(parcel_bytes_ * (size + 1))) {}

/// `bytes` of the backend's memory, on the host: the memory itself, or a copy at bounce_[place], which is there once
/// arrived() has returned.
char* HostCommunicator::fetched(const void* data, int64_t bytes, int64_t place, Stream stream) {
  if (host_memory_) return const_cast<char*>(static_cast<const char*>(data));
  std::byte* copy = bounce_.data() + place;
  backend_.copy_to_host(copy, data, bytes, stream);
  return reinterpret_cast<char*>(copy);
}

void HostCommunicator::arrived(Stream stream) {
  if (!host_memory_) backend_.synchronize(stream);
}

/// to, in the backend's memory, <- from, on the host.
void HostCommunicator::store(void* to, const void* from, int64_t bytes, Stream stream) {
  if (host_memory_) {
    std::memcpy(to, from, static_cast<size_t>(bytes));
  } else {
    backend_.copy_from_host(to, from, bytes, stream);
  }
}

/// out <- the rank's own term and those that came in this round; all on the host.
void HostCommunicator::sum(View out, const void* own, int64_t elements) {
  for (int q = 0; q < size(); ++q) terms_[q] = q == rank() ? own : from_[q].data;
  if (out.type == DType::fp32) sum_terms(static_cast<float*>(out.data), terms_, elements);
  if (out.type == DType::bf16) sum_terms(static_cast<Bf16*>(out.data), terms_, elements);
  if (out.type == DType::int64) sum_terms(static_cast<uint64_t*>(out.data), terms_, elements);
}

void HostCommunicator::do_all_reduce(View data, int64_t elements, Stream stream) {
  const int64_t element_bytes = size_of(data.type);
  if (elements * element_bytes <= std::min(kDirectBytes, parcel_bytes_)) return reduce_directly(data, elements, stream);
  const int64_t chunk = parcel_bytes_ / element_bytes * size();
  for (int64_t begin = 0; begin < elements; begin += chunk) {
    reduce_chunk(data.at(begin), std::min(chunk, elements - begin), stream);
  }
}

void HostCommunicator::reduce_directly(View data, int64_t elements, Stream stream) {
  const int64_t bytes = elements * size_of(data.type);
  char* mine = fetched(data.data, bytes, 0, stream);
  arrived(stream);
  for (Parcel& parcel : from_) parcel.bytes = bytes;
  publish({mine, bytes}, from_);
  sum({mine, data.type}, mine, elements);
  if (!host_memory_) store(data.data, mine, bytes, stream);
}

/// Slice q of the chunk is summed by rank q.
void HostCommunicator::reduce_chunk(View chunk, int64_t elements, Stream stream) {
  const int64_t element_bytes = size_of(chunk.type);
  const int64_t slice = rounded_up((elements + size() - 1) / size(), kCacheLine / element_bytes);
  const auto begin = [&](int q) { return std::min(q * slice, elements); };
  const auto bytes = [&](int q) { return (begin(q + 1) - begin(q)) * element_bytes; };

  char* mine = fetched(chunk.data, elements * element_bytes, 0, stream);
  arrived(stream);
  for (int q = 0; q < size(); ++q) {
    to_[q] = {mine + begin(q) * element_bytes, bytes(q)};
    from_[q].bytes = bytes(rank());
  }
  exchange(to_, from_);
  char* my_slice = mine + begin(rank()) * element_bytes;
  sum({my_slice, chunk.type}, my_slice, begin(rank() + 1) - begin(rank()));

  for (int q = 0; q < size(); ++q) from_[q].bytes = bytes(q);
  publish({my_slice, bytes(rank())}, from_);
  from_[rank()].data = my_slice;
  for (int q = 0; q < size(); ++q) {
    const bool in_place = host_memory_ && q == rank();
    if (!in_place && bytes(q) > 0) store(chunk.at(begin(q)).data, from_[q].data, bytes(q), stream);
  }
}

void HostCommunicator::do_reduce_scatter(View to, ConstView from, int64_t each, Stream stream) {
  const int64_t most = parcel_bytes_ / size_of(to.type);
  for (int64_t begin = 0; begin < each; begin += most) {
    const int64_t elements = std::min(most, each - begin);
    const int64_t bytes = elements * size_of(to.type);
    for (int q = 0; q < size(); ++q) {
      to_[q] = {fetched(from.at(q * each + begin).data, bytes, q * parcel_bytes_, stream), bytes};
      from_[q].bytes = bytes;
    }
    arrived(stream);
    exchange(to_, from_);
    void* out = host_memory_ ? to.at(begin).data : bounce_.data() + size() * parcel_bytes_;
    sum({out, to.type}, to_[rank()].data, elements);
    if (!host_memory_) store(to.at(begin).data, out, bytes, stream);
  }
}

void HostCommunicator::do_all_gather(View to, ConstView from, int64_t each, Stream stream) {
  const int64_t element_bytes = size_of(to.type);
  void* own_place = to.at(rank() * each).data;
  if (own_place != from.data) do_copy(own_place, from.data, each * element_bytes, stream);
  const int64_t most = parcel_bytes_ / element_bytes;
  for (int64_t begin = 0; begin < each; begin += most) {
    const int64_t bytes = std::min(most, each - begin) * element_bytes;
    const char* mine = fetched(from.at(begin).data, bytes, 0, stream);
    arrived(stream);
    for (Parcel& parcel : from_) parcel.bytes = bytes;
    publish({mine, bytes}, from_);
    for (int q = 0; q < size(); ++q) {
      if (q != rank()) store(to.at(q * each + begin).data, from_[q].data, bytes, stream);
    }
  }
}

void HostCommunicator::do_all_to_all(const AllToAll& all, Stream stream) {
  const int64_t element_bytes = size_of(all.to.type);
  const int64_t most = parcel_bytes_ / element_bytes;
  const bool sends = rank() < all.senders;
  if (sends) {
    do_copy(all.to.at(rank() * all.to_stride).data, all.from.at(all.from_offsets[rank()]).data,
            all.elements * element_bytes, stream);
  }
  for (int64_t begin = 0; begin < all.elements; begin += most) {
    const int64_t bytes = std::min(most, all.elements - begin) * element_bytes;
    for (int q = 0; q < size(); ++q) {
      to_[q] = {};
      if (sends && q != rank()) {
        const void* piece = all.from.at(all.from_offsets[q] + begin).data;
        to_[q] = {fetched(piece, bytes, q * parcel_bytes_, stream), bytes};
      }
      from_[q].bytes = q < all.senders ? bytes : 0;
    }
    arrived(stream);
    exchange(to_, from_);
    for (int q = 0; q < all.senders; ++q) {
      if (q != rank()) store(all.to.at(q * all.to_stride + begin).data, from_[q].data, bytes, stream);
    }
  }
}

void HostCommunicator::do_broadcast(View data, int64_t elements, int root, Stream stream) {
  const int64_t most = parcel_bytes_ / size_of(data.type);
  for (Parcel& parcel : from_) parcel.bytes = 0;
  for (int64_t begin = 0; begin < elements; begin += most) {
    const int64_t bytes = std::min(most, elements - begin) * size_of(data.type);
    void* place = data.at(begin).data;
    Parcel mine;
    if (rank() == root) {
      mine = {fetched(place, bytes, 0, stream), bytes};
      arrived(stream);
    }
    from_[root].bytes = bytes;
    publish(mine, from_);
    if (rank() != root) store(place, from_[root].data, bytes, stream);
  }
}

void HostCommunicator::do_copy(void* to, const void* from, int64_t bytes, Stream stream) {
  copy_bytes(backend_, to, from, bytes, stream);
}

}  // namespace dither
