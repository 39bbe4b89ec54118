// The backend without memory, the ranks that are not there, and the step among them.
#include "src/planning/rehearsal.h"

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>  // move

#include "base/error.h"
#include "kernels/forwarding_backend.h"
#include "src/training/engine.h"

namespace dither {

namespace {

/// What is given to streams while a step is on.
struct Recorder {
  std::vector<StepEvent> events;
  bool on = false, update = false;

  void add(StepEvent event) {
    event.update = update;
    if (on) events.push_back(event);
  }
};

// Two streams whose handles are never followed.
constexpr uintptr_t kHandles[2] = {1, 2};
Stream stream_of(size_t index) { return {reinterpret_cast<void*>(kHandles[index])}; }
uint8_t index_of(Stream stream) { return reinterpret_cast<uintptr_t>(stream.handle) == kHandles[1] ? 1 : 0; }

/// Hands out addresses that nobody reads. What the host writes there is kept: it holds the lists of segments that say
/// how much an operation over flat arrays has to do.
class BackendWithoutMemory final : public ForwardingBackend {
 public:
  explicit BackendWithoutMemory(Recorder& recorder) : ForwardingBackend(nullptr), recorder_(recorder) {}

  void copy_from_host(void* to, const void* from, int64_t bytes, Stream stream) override {
    const char* text = static_cast<const char*>(from);
    written_[to].assign(text, text + bytes);
    ForwardingBackend::copy_from_host(to, from, bytes, stream);
  }
  void copy_to_host(void* to, const void*, int64_t bytes, Stream) override {
    std::memset(to, 0, static_cast<size_t>(bytes));
  }
  void synchronize(Stream) override {}
  Stream stream() const override { return stream_of(0); }
  Stream second_stream() const override { return stream_of(1); }
  void order(Stream, Stream later) override {
    recorder_.add({.kind = StepEvent::Kind::order, .stream = index_of(later), .update = false});
  }
  void repeat(uint64_t, Stream, const std::function<void()>& work) override { work(); }

  void* allocate(int64_t bytes) override {
    constexpr int64_t kAlignment = 256;
    void* place = reinterpret_cast<void*>(next_);
    next_ += static_cast<uintptr_t>((bytes + kAlignment) / kAlignment * kAlignment);  // at least one apart
    allocated_ += bytes;
    ++allocations_;
    return place;
  }
  void free(void*) override {}
  int64_t allocated_bytes() const override { return allocated_; }
  int64_t allocation_count() const override { return allocations_; }
  int64_t free_bytes() const override { return -1; }
  std::string description() const override { return "no device"; }
  std::string arithmetic() const override { return "none"; }
  std::string device_id() const override { return ""; }

 private:
  void around(const Work& work, Stream stream, const std::function<void()>&) override {
    const int64_t bytes = work.segments == nullptr ? work.bytes : work.bytes * elements_of(work);
    recorder_.add({.kind = StepEvent::Kind::operation,
                   .stream = index_of(stream),
                   .update = false,
                   .flop = work.flop,
                   .bytes = bytes});
  }

  // Lists lie one behind the other in one allocation, and each was copied by itself.
  int64_t elements_of(const Work& work) const {
    const auto found = written_.find(work.segments);
    const auto bytes = static_cast<size_t>(work.segment_count) * sizeof(Segment);
    if (bytes == 0) return 0;
    DITHER_ASSERT(found != written_.end() && found->second.size() == bytes);
    std::vector<Segment> list(static_cast<size_t>(work.segment_count));
    std::memcpy(list.data(), found->second.data(), bytes);
    int64_t elements = 0;
    for (const Segment& segment : list) elements += segment.count;
    return elements;
  }

  Recorder& recorder_;
  uintptr_t next_ = uintptr_t{1} << 40;  // far from any address in use, though nobody follows it
  int64_t allocated_ = 0, allocations_ = 0;
  std::map<const void*, std::vector<char>> written_;
};

/// A rank among others that are not there: collectives end at once.
class LoneCommunicator final : public Communicator {
 public:
  LoneCommunicator(Recorder& recorder, const Partition& partition, Circle circle, int rank, int size)
      : Communicator(rank, size), recorder_(recorder), partition_(partition), circle_(circle) {}

  // RankGroups asks for the group first, then for the copies; which ranks they are follows from the partition.
  std::unique_ptr<Communicator> split(int color, int key) override {
    const bool group = splits_++ == 0;
    DITHER_ASSERT(circle_ == Circle::world && splits_ <= 2);
    DITHER_ASSERT(color == (group ? partition_.copy() : partition_.shard()));
    DITHER_ASSERT(key == (group ? partition_.shard() : partition_.copy()));
    return std::make_unique<LoneCommunicator>(recorder_, partition_, group ? Circle::group : Circle::copies, key,
                                              group ? partition_.shards : partition_.copies());
  }
  std::string description() const override { return "none"; }

 protected:
  void do_all_reduce(View data, int64_t elements, Stream stream) override {
    const int64_t bytes = elements * size_of(data.type);
    const Purpose purpose = data.type == DType::int64 ? Purpose::scalars : Purpose::gradients;
    add(Collective::all_reduce, purpose, bytes, 2 * (size() - 1) * bytes / size(), stream);
  }
  void do_reduce_scatter(View to, ConstView, int64_t each, Stream stream) override {
    const int64_t bytes = each * size_of(to.type);
    add(Collective::reduce_scatter, Purpose::gradients, size() * bytes, (size() - 1) * bytes, stream);
  }
  /// The copies have the same weights: what they gather is their pieces of a gradient.
  void do_all_gather(View to, ConstView, int64_t each, Stream stream) override {
    const int64_t bytes = each * size_of(to.type);
    const Purpose purpose = circle_ == Circle::copies ? Purpose::gradients : Purpose::weights;
    add(Collective::all_gather, purpose, size() * bytes, (size() - 1) * bytes, stream);
  }
  void do_all_to_all(const AllToAll& exchange, Stream stream) override {
    const int64_t bytes = exchange.elements * size_of(exchange.to.type);
    const int64_t sent = rank() < exchange.senders ? (size() - 1) * bytes : 0;
    add(Collective::all_to_all, Purpose::gradients, size() * bytes, sent, stream);
  }
  void do_broadcast(View, int64_t, int, Stream) override { DITHER_ASSERT(false); }  // no step has one
  void do_copy(void*, const void*, int64_t bytes, Stream stream) override {
    recorder_.add(
        {.kind = StepEvent::Kind::operation, .stream = index_of(stream), .update = false, .bytes = 2 * bytes});
  }

 private:
  void add(Collective collective, Purpose purpose, int64_t bytes, int64_t sent, Stream stream) {
    recorder_.add({.kind = StepEvent::Kind::collective,
                   .stream = index_of(stream),
                   .update = false,
                   .collective = collective,
                   .circle = circle_,
                   .purpose = purpose,
                   .bytes = bytes,
                   .sent = sent});
  }

  Recorder& recorder_;
  const Partition partition_;
  const Circle circle_;
  int splits_ = 0;
};

}  // namespace

int64_t Rehearsal::sent(Purpose purpose) const {
  int64_t sum = 0;
  for (size_t i = 0; i < events.size(); ++i) {
    if (events[i].kind == StepEvent::Kind::collective && events[i].purpose == purpose) sum += times(i) * events[i].sent;
  }
  return sum;
}

Rehearsal rehearse(const Config& config, int rank, int ranks, bool every_round) {
  constexpr int64_t kAlike = 2, kFewRounds = 4;  // the first differs, the second may keep what the first gathered
  Recorder recorder;
  const Partition partition = partition_of(config.parallel, rank, ranks);
  Engine engine(config, std::make_unique<BackendWithoutMemory>(recorder),
                [&](Backend&) -> std::unique_ptr<Communicator> {
                  return std::make_unique<LoneCommunicator>(recorder, partition, Circle::world, rank, ranks);
                });
  Rehearsal result;
  result.allocated_bytes = engine.backend().allocated_bytes();
  const int64_t B = config.batch.micro_batch_size, T = config.model.sequence_length;
  const std::vector<int32_t> tokens(static_cast<size_t>(B * T));
  recorder.on = true;
  engine.begin_step({}, false);
  Traffic left_out;
  for (int64_t round = 0; round < engine.rounds(); ++round) {
    const Traffic before = engine.ranks().traffic();
    const size_t first_event = recorder.events.size();
    if (engine.begin_round(round) >= 0) engine.model().load(tokens.data(), tokens.data(), B, T);
    engine.run_round();
    if (every_round || round != kAlike || engine.rounds() <= kFewRounds) continue;
    const Traffic after = engine.ranks().traffic();
    result.alike_begin = first_event;
    result.alike_end = recorder.events.size();
    result.alike_rounds = engine.rounds() - 1 - kAlike;
    left_out.calls = (result.alike_rounds - 1) * (after.calls - before.calls);
    left_out.bytes = (result.alike_rounds - 1) * (after.bytes - before.bytes);
    round = engine.rounds() - 2;
  }
  recorder.update = true;
  engine.update();
  recorder.on = false;
  result.traffic = engine.ranks().traffic();
  result.traffic.calls += left_out.calls;
  result.traffic.bytes += left_out.bytes;
  result.events = std::move(recorder.events);
  return result;
}

}  // namespace dither
