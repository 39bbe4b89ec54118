// The NCCL communicator between processes, over the stand-in for NCCL (tests/cuda_host/nccl.h): every collective
// against a plain loop, when it reads and writes, groups of ranks, graphs, and what becomes of failures.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "tests/catch.h"
#include "tests/parallel_nccl/ranks.h"

namespace dither {
namespace {

using Bytes = std::vector<char>;
using Values = std::function<int64_t(int64_t i)>;

constexpr int64_t kCounts[] = {1, 7, 1024, 20011};  // 20,011 takes several windows of the stand-in, in every type
constexpr DType kTypes[] = {DType::bf16, DType::fp32, DType::int16, DType::int64};

/// What rank r holds at i: so small that sums of four are exact in BF16.
int64_t value(int r, int64_t i) { return (i * 7 + r * 3) % 5 - 2; }

/// `elements` numbers. int64 has bits that no floating-point type keeps.
Bytes encoded(DType type, int64_t elements, const Values& values) {
  Bytes bytes(static_cast<size_t>(elements * size_of(type)));
  for (int64_t i = 0; i < elements; ++i) {
    const int64_t wide = values(i) * ((int64_t{1} << 60) + 1);
    if (type == DType::int64) std::memcpy(bytes.data() + 8 * i, &wide, 8);
    if (type != DType::int64) put({bytes.data(), type}, i, static_cast<float>(values(i)));
  }
  return bytes;
}

Bytes encoded(DType type, int64_t elements, int rank) {
  return encoded(type, elements, [rank](int64_t i) { return value(rank, i); });
}

Bytes sums(DType type, int64_t elements, int ranks, int64_t begin = 0) {
  return encoded(type, elements, [=](int64_t i) {
    int64_t sum = 0;
    for (int r = 0; r < ranks; ++r) sum += value(r, begin + i);
    return sum;
  });
}

/// Memory of the backend that holds `bytes`.
class Memory {
 public:
  Memory(const NcclRank& rank, DType type, const Bytes& bytes)
      : rank_(rank), bytes_(bytes.size()), view_{rank.backend.allocate(static_cast<int64_t>(bytes.size())), type} {
    rank.backend.copy_from_host(view_.data, bytes.data(), static_cast<int64_t>(bytes_), rank.stream());
  }
  ~Memory() { rank_.backend.free(view_.data); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  View view() const { return view_; }
  Bytes content() const {
    Bytes bytes(bytes_);
    rank_.backend.copy_to_host(bytes.data(), view_.data, static_cast<int64_t>(bytes_), rank_.stream());
    rank_.backend.synchronize(rank_.stream());
    return bytes;
  }
  /// The memory as it is now, whatever streams have still to do: the device's is the host's here.
  float* now() const { return view_.fp32(); }

 private:
  const NcclRank& rank_;
  size_t bytes_;
  View view_;
};

/// One collective of one type and size, on either stream.
struct Case {
  const NcclRank& rank;
  DType type;
  int64_t elements;
  bool beside;  // on the second stream

  void expect(const Memory& memory, const Bytes& expected, const std::string& what) const {
    rank.expect(memory.content() == expected, what + " of " + std::to_string(elements) + " " + name_of(type));
  }
  void give(const std::function<void(Stream)>& call) const {
    const Stream stream = beside ? rank.backend.second_stream() : rank.stream();
    rank.backend.order(rank.stream(), stream);
    call(stream);
    rank.backend.order(stream, rank.stream());
  }
};

void check_all_reduce(const Case& c) {
  const Memory data(c.rank, c.type, encoded(c.type, c.elements, c.rank.rank()));
  c.give([&](Stream stream) { c.rank.world.all_reduce(data.view(), c.elements, stream); });
  c.expect(data, sums(c.type, c.elements, c.rank.size()), "all_reduce");
}

void check_reduce_scatter(const Case& c) {
  const int rank = c.rank.rank(), size = c.rank.size();
  const Bytes mine = encoded(c.type, size * c.elements, rank);
  const Bytes expected = sums(c.type, c.elements, size, rank * c.elements);
  const Memory from(c.rank, c.type, mine);
  const Memory to(c.rank, c.type, Bytes(expected.size(), 'x'));
  c.give([&](Stream stream) { c.rank.world.reduce_scatter(to.view(), from.view(), c.elements, stream); });
  c.expect(to, expected, "reduce_scatter");
  c.expect(from, mine, "what reduce_scatter reads");
  c.give([&](Stream stream) {
    c.rank.world.reduce_scatter(from.view().at(rank * c.elements), from.view(), c.elements, stream);
  });
  const Bytes after = from.content();
  const auto begin = after.begin() + static_cast<int64_t>(expected.size()) * rank;
  c.rank.expect(Bytes(begin, begin + static_cast<int64_t>(expected.size())) == expected, "reduce_scatter in place");
}

void check_all_gather(const Case& c) {
  const int rank = c.rank.rank();
  const Bytes mine = encoded(c.type, c.elements, rank);
  const Bytes expected = encoded(c.type, c.rank.size() * c.elements,
                                 [&](int64_t i) { return value(static_cast<int>(i / c.elements), i % c.elements); });
  const Memory from(c.rank, c.type, mine);
  const Memory to(c.rank, c.type, Bytes(expected.size(), 'x'));
  c.give([&](Stream stream) { c.rank.world.all_gather(to.view(), from.view(), c.elements, stream); });
  c.expect(to, expected, "all_gather");
  Bytes own(expected.size(), 'x');
  std::copy(mine.begin(), mine.end(), own.begin() + static_cast<int64_t>(mine.size()) * rank);
  const Memory both(c.rank, c.type, own);
  c.give([&](Stream stream) {
    c.rank.world.all_gather(both.view(), both.view().at(rank * c.elements), c.elements, stream);
  });
  c.expect(both, expected, "all_gather in place");
}

/// The piece for rank p begins at 3 + ((p + 1) % size) * elements; two elements lie between the pieces that arrive.
void check_all_to_all(const Case& c, int senders) {
  const int rank = c.rank.rank(), size = c.rank.size();
  const auto offset = [&](int p) { return 3 + (p + 1) % size * c.elements; };
  std::vector<int64_t> offsets;
  for (int p = 0; p < size; ++p) offsets.push_back(offset(p));
  const int64_t stride = c.elements + 2;
  const Values nothing = [](int64_t) { return 1; };
  const Values arrives = [&](int64_t i) {
    return i % stride < c.elements ? value(static_cast<int>(i / stride), offset(rank) + i % stride) : nothing(i);
  };
  const Memory from(c.rank, c.type, encoded(c.type, 3 + size * c.elements, rank));
  const Memory to(c.rank, c.type, encoded(c.type, senders * stride, nothing));
  c.give([&](Stream stream) {
    c.rank.world.all_to_all({.to = to.view(),
                             .to_stride = stride,
                             .from = from.view(),
                             .from_offsets = offsets.data(),
                             .elements = c.elements,
                             .senders = senders},
                            stream);
  });
  c.expect(to, encoded(c.type, senders * stride, arrives), "all_to_all from " + std::to_string(senders));
}

void check_broadcast(const Case& c, int root) {
  const Memory data(c.rank, c.type, encoded(c.type, c.elements, c.rank.rank()));
  c.give([&](Stream stream) { c.rank.world.broadcast(data.view(), c.elements, root, stream); });
  c.expect(data, encoded(c.type, c.elements, root), "broadcast from " + std::to_string(root));
}

void check_everything(const NcclRank& rank) {
  for (const DType type : kTypes) {
    for (const int64_t elements : kCounts) {
      for (const bool beside : {false, true}) {
        const Case c{rank, type, elements, beside};
        if (type != DType::int16) check_all_reduce(c);
        if (type == DType::bf16 || type == DType::fp32) check_reduce_scatter(c);
        check_all_gather(c);
        for (int senders = 1; senders <= rank.size(); ++senders) check_all_to_all(c, senders);
        for (int root = 0; root < rank.size(); ++root) check_broadcast(c, root);
      }
    }
  }
}

}  // namespace

// Catches: another type or count, a root that is always 0, an offset in bytes or of another rank, a stride that is the
// number of elements, ranks that send though they are no senders, buffers swapped, int64 through floating point.
TEST_CASE("every collective gives what a plain loop gives: types, sizes, in place, on either stream") {
  const int ranks = GENERATE(2, 3, 4);
  REQUIRE(run_nccl(ranks, check_everything) == "");
}

// Catches: sums of something else, an order of adding that depends on the rank, so that replicas differ; a stand-in
// that adds as the CPU's transports do, under which a program could come to rely on their bits.
TEST_CASE("sums of random numbers are the same on every rank, near the exact sum, and rounded in another order") {
  const auto body = [](const NcclRank& rank) {
    constexpr int64_t kElements = 5000;
    const auto random = [](int r, int64_t i) {  // six binades, both signs
      const double x = std::sin(static_cast<double>(i * 4 + r + 1) * 12.9898) * 43758.5453;
      return static_cast<float>(std::ldexp(x - std::floor(x) - 0.5, static_cast<int>(i % 7)));
    };
    for (const DType type : {DType::bf16, DType::fp32}) {
      const Memory whole(rank, type, Bytes(static_cast<size_t>(4 * kElements * size_of(type))));
      Bytes bytes(static_cast<size_t>(kElements * size_of(type)));
      for (int64_t i = 0; i < kElements; ++i) put({bytes.data(), type}, i, random(rank.rank(), i));
      const Memory data(rank, type, bytes);
      rank.world.all_reduce(data.view(), kElements, rank.stream());
      rank.world.all_gather(whole.view(), data.view(), kElements, rank.stream());
      const Bytes all = whole.content();
      int64_t in_rank_order = 0;
      for (int64_t i = 0; i < kElements; ++i) {
        double exact = 0, magnitude = 0;
        float ordered = 0;
        for (int r = 0; r < 4; ++r) {
          const float x = type == DType::bf16 ? as_bf16(random(r, i)) : random(r, i);
          exact += x;
          magnitude += std::fabs(x);
          ordered += x;
        }
        const auto at = [&](const Bytes& from, int64_t j) {
          return type == DType::bf16 ? to_float(reinterpret_cast<const Bf16*>(from.data())[j])
                                     : reinterpret_cast<const float*>(from.data())[j];
        };
        const float sum = at(all, i);
        for (int r = 1; r < 4; ++r) rank.expect(at(all, r * kElements + i) == sum, "replicas differ");
        // Three additions, each rounded by at most half an ulp: u = 2^-8 or 2^-24 of a partial sum, which is at
        // most (1 + u)^2 of the sum of magnitudes.
        const double u = type == DType::bf16 ? 0x1p-8 : 0x1p-24;
        rank.expect(std::fabs(sum - exact) <= 3 * u * (1 + u) * (1 + u) * magnitude, "far from the sum");
        in_rank_order += sum == (type == DType::bf16 ? as_bf16(ordered) : ordered);
      }
      rank.expect(in_rank_order < kElements, "added in the order of ranks, rounded once");
    }
  };
  REQUIRE(run_nccl(4, body) == "");
}

// Catches: a stand-in that communicates at the call, under which a missing synchronize() or order() would not show; a
// communicator that waits for its stream.
TEST_CASE("a collective is done when its stream comes to it, with what its buffers hold then") {
  const auto body = [](const NcclRank& rank) {
    const int64_t offsets[] = {0, 1};
    const auto late = [&](const std::string& what, float expected, const auto& call) {
      const Memory from(rank, DType::fp32, encoded(DType::fp32, 2, [](int64_t) { return 1; }));
      const Memory to(rank, DType::fp32, encoded(DType::fp32, 2, [](int64_t) { return 0; }));
      rank.backend.synchronize(rank.stream());
      call(from, to);
      rank.expect(from.now()[0] == 1 && from.now()[1] == 1 && to.now()[0] == 0, what + " is early");
      from.now()[0] = from.now()[1] = 5;
      to.now()[0] = to.now()[1] = 5;
      rank.backend.synchronize(rank.stream());
      rank.expect(to.now()[0] == expected, what + " gives " + std::to_string(to.now()[0]));
    };
    late("all_reduce", 10,
         [&](const Memory&, const Memory& to) { rank.world.all_reduce(to.view(), 2, rank.stream()); });
    late("reduce_scatter", 10, [&](const Memory& from, const Memory& to) {
      rank.world.reduce_scatter(to.view(), from.view(), 1, rank.stream());
    });
    late("all_gather", 5, [&](const Memory& from, const Memory& to) {
      rank.world.all_gather(to.view(), from.view(), 1, rank.stream());
    });
    late("all_to_all", 5, [&](const Memory& from, const Memory& to) {
      rank.world.all_to_all({to.view(), 1, from.view(), offsets, 1, 2}, rank.stream());
    });
    const Memory data(rank, DType::fp32, encoded(DType::fp32, 1, [](int64_t) { return 0; }));
    rank.backend.synchronize(rank.stream());
    rank.world.broadcast(data.view(), 1, 1, rank.stream());
    data.now()[0] = rank.rank() == 1 ? 7.0f : 0.0f;
    rank.backend.synchronize(rank.stream());
    rank.expect(data.now()[0] == 7, "broadcast reads early");
  };
  REQUIRE(run_nccl(2, body) == "");
}

// Catches: a stand-in that hangs where ranks wait for their streams in different orders, which NCCL allows.
TEST_CASE(
    "collectives of one communicator are done in the order of their calls, whichever stream is waited for first") {
  const auto body = [](const NcclRank& rank) {
    const Memory first(rank, DType::fp32, encoded(DType::fp32, 8, rank.rank()));
    const Memory second(rank, DType::int64, encoded(DType::int64, 9, rank.rank()));
    rank.backend.synchronize(rank.stream());
    rank.world.all_reduce(first.view(), 8, rank.backend.second_stream());
    rank.world.all_reduce(second.view(), 9, rank.stream());
    if (rank.rank() == 0) rank.backend.synchronize(rank.stream());
    rank.backend.synchronize(rank.backend.second_stream());
    rank.expect(first.content() == sums(DType::fp32, 8, 3), "the first");
    rank.expect(second.content() == sums(DType::int64, 9, 3), "the second");
  };
  REQUIRE(run_nccl(3, body) == "");
}

// Catches: a group by key alone, ranks of the group by old rank instead of key, a group that talks to all.
TEST_CASE("split makes groups by color, ranked by key, which work in turn with the whole") {
  const auto body = [](const NcclRank& rank) {
    const int color = rank.rank() % 2;
    const Memory whole(rank, DType::fp32, encoded(DType::fp32, 5, rank.rank()));
    rank.world.all_reduce(whole.view(), 5, rank.stream());
    const std::unique_ptr<Communicator> group = rank.world.split(color, 10 - rank.rank());  // reversed
    rank.expect(group->size() == 2 && group->rank() == 1 - rank.rank() / 2, "the place in the group");
    check_everything({rank.control, rank.environment, rank.backend, *group, rank.complaints});
    for (int turn = 0; turn < 3; ++turn) {
      const Memory all(rank, DType::fp32, encoded(DType::fp32, 100, rank.rank()));
      const Memory pair(rank, DType::fp32, encoded(DType::fp32, 100, rank.rank()));
      rank.world.all_reduce(all.view(), 100, rank.stream());
      group->all_reduce(pair.view(), 100, rank.stream());
      rank.expect(all.content() == sums(DType::fp32, 100, 4), "the whole");
      rank.expect(
          pair.content() == encoded(DType::fp32, 100, [&](int64_t i) { return value(color, i) + value(color + 2, i); }),
          "the group");
    }
    const std::unique_ptr<Communicator> alone = group->split(group->rank(), 0);
    const Memory to(rank, DType::bf16, encoded(DType::bf16, 3, 0));
    const Memory from(rank, DType::bf16, encoded(DType::bf16, 3, 1));
    alone->all_gather(to.view(), from.view(), 3, rank.stream());
    rank.expect(alone->size() == 1 && to.content() == encoded(DType::bf16, 3, 1), "a group of one");
  };
  REQUIRE(run_nccl(4, body) == "");
}

// Catches: collectives that take their arguments from a call which replaying does not make, or that are not recorded.
TEST_CASE("collectives within repeat(), on both streams, are done again each time") {
  const auto body = [](const NcclRank& rank) {
    const Memory data(rank, DType::fp32, encoded(DType::fp32, 3, [](int64_t) { return 1; }));
    const Memory parts(rank, DType::fp32, encoded(DType::fp32, 6, [](int64_t) { return 0; }));
    const Stream first = rank.stream(), second = rank.backend.second_stream();
    for (int64_t round = 1; round <= 4; ++round) {
      rank.backend.repeat(1, first, [&] {
        rank.world.all_reduce(data.view(), 3, first);  // twice as much each time
        rank.backend.order(first, second);
        rank.world.all_gather(parts.view(), data.view(), 3, second);
        rank.backend.order(second, first);
      });
      rank.world.broadcast(data.view(), 3, 0, first);  // not recorded
      const Bytes expected = encoded(DType::fp32, 6, [&](int64_t) { return int64_t{1} << round; });
      rank.expect(parts.content() == expected, "round " + std::to_string(round));
    }
  };
  REQUIRE(run_nccl(2, body) == "");
}

// Catches: asynchronous errors never asked for, a message that does not say who, where and what to do.
TEST_CASE("calls that do not match between ranks are an Error on every rank") {
  const auto body = [](const NcclRank& rank) {
    const bool odd = rank.rank() == 1;
    const Memory data(rank, DType::fp32, encoded(DType::fp32, 40, rank.rank()));
    const auto mismatch = [&](const std::string& what, const auto& call) {
      const std::unique_ptr<Communicator> own = rank.another();
      const std::string early = rank.error_of([&] {
        call(*own);
        rank.backend.synchronize(rank.stream());
      });
      rank.expect(early.empty(), what + ": " + early);
      const std::string text = rank.error_of([&] { own->all_reduce(data.view(), 1, rank.stream()); });
      for (const std::string& part :
           {std::string("NCCL communication before this all_reduce"), "rank " + std::to_string(rank.rank()) + " of 3",
            std::string("NCCL_DEBUG=WARN"), std::string("nccl_communicator.cu:")}) {
        rank.expect(text.find(part) != std::string::npos, what + ": no \"" + part + "\" in \"" + text + "\"");
      }
      rank.expect(text.find("called nccl") != std::string::npos || text.find("has failed") != std::string::npos,
                  what + ": " + text);
    };
    const Stream stream = rank.stream();
    mismatch("count", [&](Communicator& own) { own.all_reduce(data.view(), odd ? 9 : 8, stream); });
    mismatch("type", [&](Communicator& own) {
      const DType type = odd ? DType::bf16 : DType::fp32;
      own.all_gather({data.view().data, type}, {data.view().at(30).data, type}, 1, stream);
    });
    mismatch("root", [&](Communicator& own) { own.broadcast(data.view(), 8, odd ? 1 : 0, stream); });
    mismatch("kind", [&](Communicator& own) {
      if (odd) own.all_gather(data.view(), data.view().at(8), 8, stream);
      if (!odd) own.all_reduce(data.view(), 8, stream);
    });
  };
  REQUIRE(run_nccl(3, body) == "");
}

// Catches: a destructor that destroys in an orderly way after a failure and leaves the peers waiting.
TEST_CASE("the peers of a rank that fails get an Error within seconds, whether it throws on or not") {
  const bool throws_on = GENERATE(true, false);
  const auto body = [&](const NcclRank& rank) {
    const Memory data(rank, DType::fp32, encoded(DType::fp32, 40, rank.rank()));
    rank.backend.synchronize(rank.stream());
    const auto begin = std::chrono::steady_clock::now();
    if (rank.rank() == 1) {
      const std::string text = rank.error_of([&] {
        const std::unique_ptr<Communicator> own = rank.another();
        own->all_reduce(data.view(), 8, rank.stream());  // queued, never done
        if (throws_on) throw Error("something else");
        int nowhere = 0;  // no stream
        const std::string call = rank.error_of([&] { own->all_reduce(data.view(), 8, Stream{&nowhere}); });
        rank.expect(call.find("NCCL all_reduce, rank 1 of 3: unhandled cuda error") == 0, call);
      });
      rank.expect(text == (throws_on ? "something else" : ""), text);
      rank.expect(data.content() == encoded(DType::fp32, 40, 1), "what was queued has been done");
      return;
    }
    const std::unique_ptr<Communicator> own = rank.another();
    own->all_reduce(data.view(), 8, rank.stream());
    rank.backend.synchronize(rank.stream());
    const std::string text = rank.error_of([&] { own->all_reduce(data.view(), 8, rank.stream()); });
    rank.expect(text.find("remote process exited") != std::string::npos, text);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    rank.expect(seconds.count() < 5, std::to_string(seconds.count()) + " s");
  };
  REQUIRE(run_nccl(3, body) == "");
}

// After an error a rank frees its memory, which waits for the device: what others will never join must not be waited
// for. Catches: abort() that only marks, a destructor that aborts a second time.
TEST_CASE("abort ends a collective that the other ranks never join") {
  const auto body = [](const NcclRank& rank) {
    const Memory memory(rank, DType::fp32, encoded(DType::fp32, 1024, rank.rank()));
    const auto begin = std::chrono::steady_clock::now();
    if (rank.rank() == 0) rank.world.all_reduce(memory.view(), 1024, rank.stream());
    rank.world.abort();
    rank.backend.synchronize(rank.stream());
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    rank.expect(seconds < 10, "waited for " + std::to_string(seconds) + " s");
  };
  CHECK(run_nccl(2, body) == "");
}

// Catches: the digits of a version taken apart at the wrong places, calls that return before they are done.
TEST_CASE("the communicator names NCCL's version, and refuses an environment in which its calls do not wait") {
  REQUIRE(built_with_nccl());
  const auto body = [](const NcclRank& rank) {
    rank.expect(rank.world.description() == "NCCL 2.28.9", rank.world.description());
    setenv("NCCL_COMM_BLOCKING", "1", 1);
    rank.expect(rank.error_of([&] { (void)rank.another(); }).empty(), "refused what it expects");
    setenv("NCCL_COMM_BLOCKING", "0", 1);
    const std::string text = rank.error_of([&] { (void)rank.another(); });
    rank.expect(text.find("NCCL_COMM_BLOCKING=0") == 0 && text.find("unset it") != std::string::npos, text);
  };
  REQUIRE(run_nccl(1, body) == "");
}

}  // namespace dither
