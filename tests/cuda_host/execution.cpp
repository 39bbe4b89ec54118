#include "tests/cuda_host/execution.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/cuda_host/fiber.h"

namespace dither::cuda_host {

namespace {

constexpr unsigned kWarp = 32;
constexpr unsigned char kPoison = 0xFF;  // NaN in every floating-point type, -1 in integers

Order g_order;

enum class State { ready, at_barrier, in_warp, at_event, ended };

/// What the lanes of a warp hand to each other. Two rounds are kept: a lane may bring its value to the next exchange
/// while others have yet to read the last one.
struct Warp {
  uint64_t values[2][kWarp] = {};
  WarpWords words[2] = {};
  unsigned arrived[2] = {};     // bit i: lane i has brought its value
  const char* meeting[2] = {};  // what the lanes of the round execute
  unsigned lanes = 0;           // that exist
};

/// An asynchronous copy that has been started but not waited for.
struct Copy {
  void* to;
  const void* from;
  int bytes;
  int64_t group;
};

struct Thread {
  Fiber fiber;
  State state = State::ended;
  ThreadPlace place;
  unsigned index = 0;           // in the block
  unsigned round = 0;           // exchanges of its warp done, modulo 2
  const char* where = "";       // it waits, for messages
  const void* event = nullptr;  // that it waits for
  std::vector<Copy> copies;     // in the order of their start
  int64_t group = 0;            // that copies join now
};

constexpr std::align_val_t kSharedAlignment{128};  // the device's
struct ReleaseShared {
  void operator()(unsigned char* bytes) const { operator delete[](bytes, kSharedAlignment); }
};

/// One block at a time, its threads as fibers; one of these a core.
class Block {
 public:
  void run(dim3 grid, dim3 index, dim3 size, int64_t shared_bytes, const std::function<void()>& body);

  Thread& current() { return *current_; }
  Warp& warp_of(const Thread& t) { return warps_[t.index / kWarp]; }
  unsigned char* shared(int64_t offset) { return shared_.get() + offset; }
  bool holds_shared(const void* place, int64_t bytes) const {
    const auto first = reinterpret_cast<uintptr_t>(shared_.get()), at = reinterpret_cast<uintptr_t>(place);
    return at >= first && at + static_cast<uintptr_t>(bytes) <= first + static_cast<uintptr_t>(shared_bytes_);
  }
  void wait(State state, const char* where) {
    Thread& self = *current_;
    self.state = state;
    self.where = where;
    self.fiber.wait();
  }
  void release_warp(const Thread& t) {
    const unsigned first = t.index / kWarp * kWarp;
    for (unsigned i = first; i < std::min<unsigned>(first + kWarp, count_); ++i) {
      if (threads_[i]->state == State::in_warp) release(i);
    }
  }
  void release_event(const void* event) {
    for (unsigned i = 0; i < count_; ++i) {
      if (threads_[i]->state == State::at_event && threads_[i]->event == event) release(i);
    }
  }
  std::unique_ptr<BlockState>& part(BlockPart which) { return parts_[static_cast<size_t>(which)]; }
  int64_t shared_bytes() const { return shared_bytes_; }

 private:
  void start_threads(dim3 grid, dim3 index, dim3 size, const std::function<void()>& body);
  void draw_order(std::mt19937_64& random);
  void shuffle_order(std::mt19937_64& random);
  void release(unsigned thread) {
    threads_[thread]->state = State::ready;
    released_ = std::min(released_, place_in_order_[thread]);
  }
  bool run_ready();
  bool release_barrier();
  std::string waiting_threads() const;
  std::string unfinished() const {
    std::string text;
    for (const auto& part : parts_) text += part == nullptr ? "" : part->unfinished();
    return text;
  }

  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<Warp> warps_;
  std::vector<unsigned> order_;
  std::vector<size_t> place_in_order_;  // of each thread
  size_t released_ = 0;                 // first place that the running thread has made ready
  std::unique_ptr<unsigned char[], ReleaseShared> shared_;
  int64_t shared_bytes_ = 0;
  unsigned count_ = 0;
  Thread* current_ = nullptr;
  std::unique_ptr<BlockState> parts_[2];  // by BlockPart
  std::exception_ptr thrown_;
};

thread_local Block* t_block = nullptr;

void demand_no_copies(const Thread& t) {
  if (t.copies.empty()) return;
  throw std::logic_error("thread " + std::to_string(t.index) + " ends with " + std::to_string(t.copies.size()) +
                         " asynchronous copies that it has not waited for");
}

void Block::start_threads(dim3 grid, dim3 index, dim3 size, const std::function<void()>& body) {
  count_ = size.x * size.y * size.z;
  while (threads_.size() < count_) threads_.push_back(std::make_unique<Thread>());
  warps_.assign((count_ + kWarp - 1) / kWarp, Warp());
  for (unsigned i = 0; i < count_; ++i) {
    Thread& t = *threads_[i];
    t.place = {dim3(i % size.x, i / size.x % size.y, i / size.x / size.y), index, size, grid};
    t.index = i;
    t.round = 0;
    t.state = State::ready;
    t.copies.clear();
    t.group = 0;
    warps_[i / kWarp].lanes |= 1u << (i % kWarp);
    t.fiber.start([this, &body, &t] {
      try {
        body();
        demand_no_copies(t);
      } catch (...) {
        if (!thrown_) thrown_ = std::current_exception();
      }
    });
  }
}

void Block::draw_order(std::mt19937_64& random) {
  order_.resize(count_);
  std::iota(order_.begin(), order_.end(), 0u);
  if (g_order.kind == Order::falling) std::reverse(order_.begin(), order_.end());
  if (g_order.kind == Order::random) shuffle_order(random);
  place_in_order_.resize(count_);
  for (size_t place = 0; place < count_; ++place) place_in_order_[order_[place]] = place;
}

// Warps stay together in a random order: far ahead of others is where a warp finds what they have yet to read or write.
void Block::shuffle_order(std::mt19937_64& random) {
  std::vector<uint64_t> rank_of_warp(warps_.size()), rank_of_thread(count_);
  for (uint64_t& rank : rank_of_warp) rank = random();
  for (uint64_t& rank : rank_of_thread) rank = random();
  std::sort(order_.begin(), order_.end(), [&](unsigned i, unsigned j) {
    return std::pair(rank_of_warp[i / kWarp], rank_of_thread[i]) <
           std::pair(rank_of_warp[j / kWarp], rank_of_thread[j]);
  });
}

bool Block::run_ready() {
  bool progress = false;
  for (size_t place = 0; place < order_.size();) {
    current_ = threads_[order_[place]].get();
    if (current_->state != State::ready) {
      ++place;
      continue;
    }
    progress = true;
    released_ = count_;
    if (!current_->fiber.resume()) current_->state = State::ended;
    ++place;  // the threads before it were not ready, and are not now unless it released them
    if (g_order.kind != Order::in_turn) place = std::min(place, released_);
  }
  return progress;
}

// A thread that has ended does not hold up the others, as on the device.
bool Block::release_barrier() {
  bool any = false;
  for (unsigned i = 0; i < count_; ++i) {
    const State s = threads_[i]->state;
    if (s == State::in_warp || s == State::at_event || s == State::ready) return false;
    any |= s == State::at_barrier;
  }
  for (unsigned i = 0; i < count_ && any; ++i) {
    if (threads_[i]->state == State::at_barrier) threads_[i]->state = State::ready;
  }
  return any;
}

std::string Block::waiting_threads() const {
  constexpr unsigned kNamed = 40;
  std::string text;
  for (unsigned i = 0; i < std::min(count_, kNamed); ++i) {
    const Thread& t = *threads_[i];
    text += "\n  thread " + std::to_string(i) +
            (t.state == State::ended ? " has ended" : std::string(" waits in ") + t.where);
  }
  return text;
}

void Block::run(dim3 grid, dim3 index, dim3 size, int64_t shared_bytes, const std::function<void()>& body) {
  t_block = this;
  shared_bytes_ = shared_bytes;
  shared_.reset(new (kSharedAlignment) unsigned char[static_cast<size_t>(shared_bytes)]);  // apart: overruns are seen
  std::fill_n(shared_.get(), shared_bytes, kPoison);
  thrown_ = nullptr;
  for (auto& part : parts_) part = nullptr;
  start_threads(grid, index, size, body);
  std::mt19937_64 random(g_order.seed * 0x9E3779B97F4A7C15ull + index.x + 0x10001ull * index.y +
                         0x1000003ull * index.z);
  draw_order(random);
  while (run_ready() || release_barrier()) {
  }
  t_block = nullptr;
  const bool stuck =
      std::any_of(threads_.begin(), threads_.begin() + count_, [](const auto& t) { return t->state != State::ended; });
  const std::string who = stuck ? waiting_threads() : "", left = unfinished();
  if (stuck) threads_.clear();  // fibers that stand in the middle of a kernel cannot be used again
  if (thrown_) std::rethrow_exception(thrown_);
  if (stuck) throw std::logic_error("threads of a block wait for each other for ever:" + who + left);
  if (!left.empty()) throw std::logic_error("a block ends with work that it has not waited for:" + left);
}

/// The running lane has brought what it brings to this round: waits until all have. The last one runs `last` first.
template <class Last>
void meet(Warp& warp, const char* where, const Last& last) {
  Thread& self = t_block->current();
  const unsigned round = self.round;
  if (warp.arrived[round] == 0) {
    warp.arrived[1 - round] = 0;  // the round before has been read by all
    warp.meeting[round] = where;
  }
  if (std::strcmp(warp.meeting[round], where) != 0) {
    throw std::logic_error(std::string("lanes of a warp meet in ") + warp.meeting[round] + " and in " + where);
  }
  warp.arrived[round] |= 1u << (self.index % kWarp);
  self.round = 1 - round;
  if (warp.arrived[round] == warp.lanes) {
    last();
    t_block->release_warp(self);
  } else {
    t_block->wait(State::in_warp, where);
  }
}

/// Brings a value to the warp and waits until all lanes have; returns the round's values.
const uint64_t* bring(unsigned mask, uint64_t value, const char* where) {
  Thread& self = t_block->current();
  Warp& warp = t_block->warp_of(self);
  const unsigned round = self.round;
  if ((mask & warp.lanes) != warp.lanes) {
    throw std::logic_error(std::string(where) + ": the mask leaves out lanes of the warp, which kernels here never do");
  }
  warp.values[round][self.index % kWarp] = value;
  meet(warp, where, [] {});
  return warp.values[round];
}

}  // namespace

const ThreadPlace& place() { return t_block->current().place; }
unsigned lane() { return t_block->current().index % kWarp; }
void* shared_memory(int64_t offset) { return t_block->shared(offset); }
void barrier() { t_block->wait(State::at_barrier, "__syncthreads"); }

uint64_t exchange(unsigned mask, uint64_t value, unsigned source) {
  const unsigned own = lane(), lanes = t_block->warp_of(t_block->current()).lanes;
  const uint64_t* values = bring(mask, value, "a shuffle");
  return source < kWarp && (lanes >> source & 1u) != 0 ? values[source] : values[own];
}

unsigned vote(unsigned mask, bool value) {
  const unsigned lanes = t_block->warp_of(t_block->current()).lanes;
  const uint64_t* values = bring(mask, value ? 1 : 0, "a vote");
  unsigned bits = 0;
  for (unsigned i = 0; i < kWarp; ++i) bits |= (lanes >> i & 1u) != 0 && values[i] != 0 ? 1u << i : 0;
  return bits;
}

void warp_together(const char* instruction, uint32_t* words, int count, void (*compute)(WarpWords&)) {
  Thread& self = t_block->current();
  Warp& warp = t_block->warp_of(self);
  if (warp.lanes != ~0u) throw std::logic_error(std::string(instruction) + ": the warp has fewer than 32 lanes");
  WarpWords& all = warp.words[self.round];
  uint32_t* own = all.lane[self.index % kWarp];
  const size_t bytes = static_cast<size_t>(count) * sizeof(uint32_t);
  std::memcpy(own, words, bytes);
  meet(warp, instruction, [&] { compute(all); });
  std::memcpy(words, own, bytes);
}

void demand_shared_16(const void* place, const char* instruction) {
  if (!t_block->holds_shared(place, 16)) {
    throw std::logic_error(std::string(instruction) + ": an address outside the block's shared memory");
  }
  if (reinterpret_cast<uintptr_t>(place) % 16 != 0) {
    throw std::logic_error(std::string(instruction) + ": an address that is no multiple of 16 bytes");
  }
}

void start_copy(void* to, const void* from, int bytes) {
  demand_shared_16(to, "cp.async");
  if (reinterpret_cast<uintptr_t>(from) % 16 != 0 || bytes < 0 || bytes > 16) {
    throw std::logic_error("cp.async: a source that is no multiple of 16 bytes, or not 0 to 16 bytes of it");
  }
  Thread& self = t_block->current();
  std::memset(to, kPoison, 16);
  self.copies.push_back({to, from, bytes, self.group});
}

void close_copy_group() { ++t_block->current().group; }

void finish_copies(int latest_pending) {
  Thread& self = t_block->current();
  const auto pending = std::find_if(self.copies.begin(), self.copies.end(),
                                    [&](const Copy& copy) { return copy.group >= self.group - latest_pending; });
  for (auto copy = self.copies.begin(); copy != pending; ++copy) {
    std::memset(copy->to, 0, 16);
    std::memcpy(copy->to, copy->from, static_cast<size_t>(copy->bytes));
  }
  self.copies.erase(self.copies.begin(), pending);
}

std::unique_ptr<BlockState>& block_state(BlockPart part) { return t_block->part(part); }
unsigned thread_in_block() { return t_block->current().index; }
int64_t shared_bytes() { return t_block->shared_bytes(); }

void wait_for(const void* event, const char* where) {
  t_block->current().event = event;
  t_block->wait(State::at_event, where);
}
void happened(const void* event) { t_block->release_event(event); }

void set_order(Order order) { g_order = order; }

namespace {

/// What a device of today refuses to start.
void check_sizes(dim3 grid, dim3 block, int64_t shared_bytes) {
  constexpr int64_t kMostShared = 227 << 10;  // of a block, on Hopper
  const int64_t threads = int64_t{block.x} * block.y * block.z;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || threads == 0) throw std::logic_error("a launch of nothing");
  if (grid.x > 2147483647u || grid.y > 65535 || grid.z > 65535)
    throw std::logic_error("a grid larger than there may be");
  if (threads > 1024 || block.z > 64) throw std::logic_error("a block of more threads than there may be");
  if (shared_bytes < 0 || shared_bytes > kMostShared)
    throw std::logic_error("more shared memory than a block may have");
}

}  // namespace

void run_grid(dim3 grid, dim3 block, int64_t shared_bytes, const std::function<void()>& body) {
  check_sizes(grid, block, shared_bytes);
  const int64_t blocks = int64_t{grid.x} * grid.y * grid.z;
  std::atomic<int64_t> next{0};
  std::exception_ptr thrown;
  std::atomic<bool> failed{false};
  const auto work = [&] {
    Block executor;
    for (int64_t i = next++; i < blocks && !failed; i = next++) {
      const dim3 index(static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                       static_cast<unsigned>(i / grid.x / grid.y));
      try {
        executor.run(grid, index, block, shared_bytes, body);
      } catch (...) {
        if (!failed.exchange(true)) thrown = std::current_exception();
      }
    }
  };
  const unsigned cores = std::max(1u, std::min<unsigned>(std::thread::hardware_concurrency(), 4));
  std::vector<std::thread> others;
  for (unsigned i = 1; i < cores && i < blocks; ++i) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
  if (thrown) std::rethrow_exception(thrown);
}

}  // namespace dither::cuda_host
