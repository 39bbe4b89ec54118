// The cases of all transports: see collective_cases.h.
//
// What a rank holds is a function of rank, index and type, so every rank knows what every other one sends. Behind each
// output lies a guard that must stay as it was.
#include "tests/parallel/collective_cases.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace dither {

namespace {

using Bytes = std::vector<char>;

constexpr int64_t kGuard = 64;  // bytes
constexpr char kGuardByte = 0x5A;

// 1,024 is published whole, 100,003 in one chunk at most ranks, 600,011 FP32 numbers are three chunks; none but 1,024
// divides by the ranks, and 1 and 7 leave some ranks without a slice.
constexpr int64_t kCounts[] = {0, 1, 7, 1024, 100003, 600011};

/// Element i of rank r, of random sign and of magnitudes over six binades: sums round, and in another order otherwise.
float value(int r, int64_t i) {
  uint64_t bits = (static_cast<uint64_t>(i) * 64 + static_cast<uint64_t>(r) + 1) * 0x9E3779B97F4A7C15u;
  bits = (bits ^ (bits >> 31)) * 0xBF58476D1CE4E5B9u;
  bits ^= bits >> 29;
  const float mantissa = 1.0f + static_cast<float>(bits & 0x7FFFFF) * 0x1p-23f;
  return std::ldexp(bits >> 63 ? -mantissa : mantissa, static_cast<int>((bits >> 40) % 6));
}

/// place <- element i of rank r.
void put_held(void* place, DType type, int r, int64_t i) {
  if (type == DType::fp32) *static_cast<float*>(place) = value(r, i);
  if (type == DType::bf16) *static_cast<Bf16*>(place) = round_nearest(value(r, i));
  if (type == DType::int16) *static_cast<int16_t*>(place) = static_cast<int16_t>(i * 7 + r * 1001);
  if (type == DType::int64) *static_cast<int64_t*>(place) = (int64_t{1} << 62) - i * 1000003 * (r + 1);  // sums wrap
}

/// Elements begin .. begin + elements of rank r.
Bytes held_by(int r, DType type, int64_t elements, int64_t begin = 0) {
  Bytes all(static_cast<size_t>(elements * size_of(type)));
  for (int64_t i = 0; i < elements; ++i) put_held(all.data() + i * size_of(type), type, r, begin + i);
  return all;
}

/// The same of the sum over all ranks: the law, as a plain loop.
Bytes summed(int ranks, DType type, int64_t elements, int64_t begin = 0) {
  Bytes sum = held_by(0, type, elements, begin);
  std::vector<float> partial(static_cast<size_t>(elements));
  for (int r = 0; r < ranks; ++r) {
    const Bytes term = held_by(r, type, elements, begin);
    for (int64_t i = 0; i < elements; ++i) {
      if (type == DType::int64) {
        auto* total = reinterpret_cast<uint64_t*>(sum.data()) + i;
        if (r > 0) *total += reinterpret_cast<const uint64_t*>(term.data())[i];
        continue;
      }
      const float x = type == DType::fp32 ? reinterpret_cast<const float*>(term.data())[i]
                                          : to_float(reinterpret_cast<const Bf16*>(term.data())[i]);
      partial[i] = r == 0 ? x : partial[i] + x;
    }
  }
  for (int64_t i = 0; i < elements && type != DType::int64; ++i) put({sum.data(), type}, i, partial[i]);
  return sum;
}

/// Memory of the backend with a guard behind it.
class Array {
 public:
  Array(Backend& backend, DType type, int64_t elements)
      : backend_(backend), bytes_(elements * size_of(type)), view_{backend.allocate(bytes_ + kGuard), type} {
    fill(Bytes(static_cast<size_t>(bytes_ + kGuard), kGuardByte));
  }
  Array(Backend& backend, DType type, const Bytes& content)
      : Array(backend, type, static_cast<int64_t>(content.size()) / size_of(type)) {
    fill(content);
  }
  ~Array() { backend_.free(view_.data); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  View view() const { return view_; }
  /// The content; empty if the guard has been touched.
  Bytes content() const {
    Bytes all(static_cast<size_t>(bytes_ + kGuard));
    backend_.copy_to_host(all.data(), view_.data, bytes_ + kGuard, backend_.stream());
    backend_.synchronize(backend_.stream());
    const auto is_guard = [](char byte) { return byte == kGuardByte; };
    if (!std::all_of(all.begin() + bytes_, all.end(), is_guard)) return {};
    all.resize(static_cast<size_t>(bytes_));
    return all;
  }

 private:
  void fill(const Bytes& content) {
    backend_.copy_from_host(view_.data, content.data(), static_cast<int64_t>(content.size()), backend_.stream());
  }

  Backend& backend_;
  int64_t bytes_;
  View view_;
};

void append(Bytes& all, const Bytes& more) { all.insert(all.end(), more.begin(), more.end()); }

struct Case {
  Communicator& world;
  Backend& backend;
  Complaints& complaints;
  DType type;
  int64_t elements;

  int rank() const { return world.rank(); }
  int size() const { return world.size(); }
  Stream stream() const { return backend.stream(); }

  void expect_content(const Array& array, const Bytes& expected, const std::string& what) const {
    complaints.expect(array.content() == expected, what + " of " + std::to_string(elements) + " " + name_of(type) +
                                                       " at rank " + std::to_string(rank()) + " of " +
                                                       std::to_string(size()));
  }
};

void check_all_reduce(const Case& c) {
  const Array data(c.backend, c.type, held_by(c.rank(), c.type, c.elements));
  c.world.all_reduce(data.view(), c.elements, c.stream());
  c.expect_content(data, summed(c.size(), c.type, c.elements), "all_reduce");
}

void check_reduce_scatter(const Case& c) {
  const int64_t all = c.elements * c.size();
  const Bytes mine = held_by(c.rank(), c.type, all);
  const Bytes expected = summed(c.size(), c.type, c.elements, c.rank() * c.elements);
  const Array from(c.backend, c.type, mine);
  const Array to(c.backend, c.type, c.elements);
  c.world.reduce_scatter(to.view(), from.view(), c.elements, c.stream());
  c.expect_content(to, expected, "reduce_scatter");
  c.expect_content(from, mine, "what reduce_scatter reads");

  const View place = from.view().at(c.rank() * c.elements);
  c.world.reduce_scatter(place, from.view(), c.elements, c.stream());
  const Bytes after = from.content();
  c.complaints.expect(
      after.size() == mine.size() &&
          std::equal(expected.begin(), expected.end(), after.begin() + c.rank() * c.elements * size_of(c.type)),
      "reduce_scatter in place of " + std::to_string(c.elements) + " " + name_of(c.type));
}

void check_all_gather(const Case& c) {
  const Bytes mine = held_by(c.rank(), c.type, c.elements);
  Bytes expected;
  for (int r = 0; r < c.size(); ++r) append(expected, held_by(r, c.type, c.elements));
  const Array from(c.backend, c.type, mine);
  const Array to(c.backend, c.type, c.elements * c.size());
  c.world.all_gather(to.view(), from.view(), c.elements, c.stream());
  c.expect_content(to, expected, "all_gather");

  const Array both(c.backend, c.type, c.elements * c.size());
  const View place = both.view().at(c.rank() * c.elements);
  c.backend.copy_from_host(place.data, mine.data(), static_cast<int64_t>(mine.size()), c.stream());
  c.world.all_gather(both.view(), place, c.elements, c.stream());
  c.expect_content(both, expected, "all_gather in place");
}

/// Rank r's piece for p begins at element 3 + ((p + 1) % size) * (elements + 5); in `to` lie 2 elements between pieces.
void check_all_to_all(const Case& c, int senders) {
  const auto offset = [&](int p) { return 3 + (p + 1) % c.size() * (c.elements + 5); };
  std::vector<int64_t> offsets;
  for (int p = 0; p < c.size(); ++p) offsets.push_back(offset(p));
  const int64_t stride = c.elements + 2;
  const Bytes gap(static_cast<size_t>(2 * size_of(c.type)), kGuardByte);
  Bytes expected;
  for (int q = 0; q < senders; ++q) {
    append(expected, held_by(q, c.type, c.elements, offset(c.rank())));
    append(expected, gap);
  }
  const Array from(c.backend, c.type, held_by(c.rank(), c.type, 3 + c.size() * (c.elements + 5)));
  const Array to(c.backend, c.type, stride * senders);
  const bool sends = c.rank() < senders;
  c.world.all_to_all({.to = to.view(),
                      .to_stride = stride,
                      .from = sends ? ConstView(from.view()) : ConstView(),
                      .from_offsets = sends ? offsets.data() : nullptr,
                      .elements = c.elements,
                      .senders = senders},
                     c.stream());
  c.expect_content(to, expected, "all_to_all with " + std::to_string(senders) + " senders");
}

void check_broadcast(const Case& c, int root) {
  const Array data(c.backend, c.type, held_by(c.rank(), c.type, c.elements));
  c.world.broadcast(data.view(), c.elements, root, c.stream());
  c.expect_content(data, held_by(root, c.type, c.elements), "broadcast from " + std::to_string(root));
}

}  // namespace

void check_collectives(Communicator& communicator, Backend& backend, Complaints& complaints, int64_t most) {
  const int size = communicator.size();
  for (const DType type : {DType::fp32, DType::bf16, DType::int64, DType::int16}) {
    for (const int64_t elements : kCounts) {
      if (elements > most) continue;
      const Case c{communicator, backend, complaints, type, elements};
      if (type != DType::int16) check_all_reduce(c);
      const bool large = elements > 10000;
      if (large && type != DType::fp32) continue;  // further rounds: of one type
      if (type == DType::fp32 || type == DType::bf16) check_reduce_scatter(c);
      check_all_gather(c);
      for (int senders = large ? size : 1; senders <= size; ++senders) check_all_to_all(c, senders);
      for (int root = large ? size - 1 : 0; root < size; ++root) check_broadcast(c, root);
    }
  }
}

void check_split(Communicator& communicator, Backend& backend, Complaints& complaints) {
  // Even ranks in falling order, odd ones in rising order, by keys with gaps.
  const int rank = communicator.rank(), size = communicator.size();
  const int color = rank % 2, key = color == 0 ? -10 * rank : 7 * rank;
  for (int round = 0; round < 2; ++round) {
    const std::unique_ptr<Communicator> group = communicator.split(color, key);
    const int members = (size + 1 - color) / 2;
    const int place = color == 0 ? members - 1 - rank / 2 : rank / 2;
    complaints.expect(group->size() == members && group->rank() == place,
                      "split: rank " + std::to_string(group->rank()) + " of " + std::to_string(group->size()));
    check_collectives(*group, backend, complaints, 2000);
    const Case c{communicator, backend, complaints, DType::fp32, 5000};
    const Case in_group{*group, backend, complaints, DType::fp32, 7000};
    for (int turn = 0; turn < 3; ++turn) {
      check_all_reduce(c);
      check_all_reduce(in_group);
      check_all_gather(c);
    }
    const std::unique_ptr<Communicator> everybody = group->split(0, -group->rank());  // a group of a group, reversed
    complaints.expect(everybody->rank() == members - 1 - place, "split of a group");
    check_all_reduce({*everybody, backend, complaints, DType::bf16, 1000});
  }
}

}  // namespace dither
