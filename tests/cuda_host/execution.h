// Runs a grid of a kernel on the host: the threads of a block are fibers, blocks are spread over the cores.
//
// A thread runs until it waits (barrier, shuffle, vote) or ends; then the first one in the order that can go on does. A
// kernel that is right gives the same result in every order; one that lacks a barrier meets poison, an old value or one
// that is too new in some of them, so tests of a kernel run it in all of kOrders.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "tests/cuda_host/runtime.h"

namespace dither::cuda_host {

/// Who goes on when several threads of a block can. rising, falling: always the first, or last, so that one warp runs
/// as far ahead of the others as barriers let it; random: the same with warps, and lanes in them, in an order drawn for
/// each block; in_turn: everyone up to its next wait, then everyone again.
struct Order {
  enum Kind { rising, falling, random, in_turn } kind = rising;
  uint64_t seed = 0;
};
constexpr Order kOrders[] = {{Order::rising, 0}, {Order::falling, 0}, {Order::random, 1}, {Order::in_turn, 0}};

/// The order of all grids from now on.
void set_order(Order order);

/// body() once for each thread of the grid, in the place of the kernel. Rethrows what a thread threw; throws
/// std::logic_error where threads wait for others that have ended or wait elsewhere, naming both.
void run_grid(dim3 grid, dim3 block, int64_t shared_bytes, const std::function<void()>& body);

/// What the lanes of a warp bring to an instruction that all of them execute as one.
constexpr int kLaneWords = 16;
struct WarpWords {
  uint32_t lane[32][kLaneWords];
};

/// Waits for all 32 lanes, each with its `count` words. The last to come runs compute() for the warp, which reads and
/// writes the words of every lane; each goes on with its own. `instruction` is for messages: lanes that meet in
/// different ones throw std::logic_error.
void warp_together(const char* instruction, uint32_t* words, int count, void (*compute)(WarpWords&));

/// cp.async of the running thread: the 16 bytes at `to` are poison from here until they are waited for, and only then
/// is `from` read: `bytes` of it, zeros behind them. A thread that ends before its copies throws std::logic_error.
void start_copy(void* to, const void* from, int bytes);
void close_copy_group();                 // of the copies started since the last time
void finish_copies(int latest_pending);  // of all closed groups but this many of the latest

/// Throws std::logic_error unless the 16 bytes at `place` begin at a multiple of 16 in the block's shared memory.
void demand_shared_16(const void* place, const char* instruction);

/// What the twins of Hopper's asynchronous instructions (ptx_hopper.cpp) keep for a block.
class BlockState {
 public:
  virtual ~BlockState() = default;
  /// What has been started but not waited for, for messages: a block that ends with any throws std::logic_error.
  virtual std::string unfinished() const = 0;
};
enum class BlockPart { copies, products };
std::unique_ptr<BlockState>& block_state(BlockPart part);  // of the running block; null when it begins
unsigned thread_in_block();
int64_t shared_bytes();

/// The running thread waits until another one says that the event has happened; `where` is for messages.
void wait_for(const void* event, const char* where);
void happened(const void* event);

}  // namespace dither::cuda_host
