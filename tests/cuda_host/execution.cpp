#include "tests/cuda_host/execution.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
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

enum class State { ready, at_barrier, in_warp, ended };

/// What the lanes of a warp hand to each other. Two rounds are kept: a lane may bring its value to the next exchange
/// while others have yet to read the last one.
struct Warp {
  uint64_t values[2][kWarp] = {};
  unsigned arrived[2] = {};  // bit i: lane i has brought its value
  unsigned lanes = 0;        // that exist
};

struct Thread {
  Fiber fiber;
  State state = State::ended;
  ThreadPlace place;
  unsigned index = 0;      // in the block
  unsigned round = 0;      // exchanges of its warp done, modulo 2
  const char* where = "";  // it waits, for messages
};

/// One block at a time, its threads as fibers; one of these a core.
class Block {
 public:
  void run(dim3 grid, dim3 index, dim3 size, int64_t shared_bytes, const std::function<void()>& body);

  Thread& current() { return *current_; }
  Warp& warp_of(const Thread& t) { return warps_[t.index / kWarp]; }
  unsigned char* shared(int64_t offset) { return shared_.get() + offset; }
  void wait(State state, const char* where) {
    Thread& self = *current_;
    self.state = state;
    self.where = where;
    self.fiber.wait();
  }
  void release_warp(const Thread& t) {
    const unsigned first = t.index / kWarp * kWarp;
    for (unsigned i = first; i < std::min<unsigned>(first + kWarp, count_); ++i) {
      if (threads_[i]->state == State::in_warp) threads_[i]->state = State::ready;
    }
  }

 private:
  void start_threads(dim3 grid, dim3 index, dim3 size, const std::function<void()>& body);
  void draw_order(std::mt19937_64& random);
  bool run_ready();
  bool release_barrier();
  std::string waiting_threads() const;

  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<Warp> warps_;
  std::vector<unsigned> order_;
  std::unique_ptr<unsigned char[]> shared_;
  unsigned count_ = 0;
  Thread* current_ = nullptr;
  std::exception_ptr thrown_;
};

thread_local Block* t_block = nullptr;

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
    warps_[i / kWarp].lanes |= 1u << (i % kWarp);
    t.fiber.start([this, &body] {
      try {
        body();
      } catch (...) {
        if (!thrown_) thrown_ = std::current_exception();
      }
    });
  }
}

// Warps stay together in a random order: far ahead of others is where a warp finds what they have yet to read or write.
void Block::draw_order(std::mt19937_64& random) {
  order_.resize(count_);
  std::iota(order_.begin(), order_.end(), 0u);
  if (g_order.kind == Order::falling) std::reverse(order_.begin(), order_.end());
  if (g_order.kind != Order::random) return;
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
    if (!current_->fiber.resume()) current_->state = State::ended;
    place = g_order.kind == Order::in_turn ? place + 1 : 0;
  }
  return progress;
}

// A thread that has ended does not hold up the others, as on the device.
bool Block::release_barrier() {
  bool any = false;
  for (unsigned i = 0; i < count_; ++i) {
    const State s = threads_[i]->state;
    if (s == State::in_warp || s == State::ready) return false;
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
  shared_ = std::make_unique<unsigned char[]>(static_cast<size_t>(shared_bytes));  // its own allocation: see overruns
  std::fill_n(shared_.get(), shared_bytes, kPoison);
  thrown_ = nullptr;
  start_threads(grid, index, size, body);
  std::mt19937_64 random(g_order.seed * 0x9E3779B97F4A7C15ull + index.x + 0x10001ull * index.y +
                         0x1000003ull * index.z);
  draw_order(random);
  while (run_ready() || release_barrier()) {
  }
  t_block = nullptr;
  const bool stuck =
      std::any_of(threads_.begin(), threads_.begin() + count_, [](const auto& t) { return t->state != State::ended; });
  const std::string who = stuck ? waiting_threads() : "";
  if (stuck) threads_.clear();  // fibers that stand in the middle of a kernel cannot be used again
  if (thrown_) std::rethrow_exception(thrown_);
  if (stuck) throw std::logic_error("threads of a block wait for each other for ever:" + who);
}

/// Brings a value to the warp and waits until all lanes have; returns the round's values.
const uint64_t* bring(unsigned mask, uint64_t value, const char* where) {
  Thread& self = t_block->current();
  Warp& warp = t_block->warp_of(self);
  const unsigned lane = self.index % kWarp, round = self.round;
  if ((mask & warp.lanes) != warp.lanes) {
    throw std::logic_error(std::string(where) + ": the mask leaves out lanes of the warp, which kernels here never do");
  }
  if (warp.arrived[round] == 0) warp.arrived[1 - round] = 0;  // the round before has been read by all
  warp.values[round][lane] = value;
  warp.arrived[round] |= 1u << lane;
  self.round = 1 - round;
  if (warp.arrived[round] == warp.lanes) {
    t_block->release_warp(self);
  } else {
    t_block->wait(State::in_warp, where);
  }
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

void set_order(Order order) { g_order = order; }

void run_grid(dim3 grid, dim3 block, int64_t shared_bytes, const std::function<void()>& body) {
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
