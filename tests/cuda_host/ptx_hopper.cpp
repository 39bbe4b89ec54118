// Barriers, bulk copies and stmatrix on the host (ptx_hopper.h); products of a warpgroup: wgmma.cpp.
#include "tests/cuda_host/ptx_hopper.h"

#include <array>
#include <bit>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/cuda_host/tensor_map.h"

namespace dither {

namespace {

using namespace cuda_host;

constexpr int kLanes = 32;
constexpr unsigned char kPoison = 0xFF;
constexpr uint64_t kBarrierMark = 0x7265697272616263;  // what the 8 bytes of a barrier hold: nobody else writes there

using Chunk = std::array<uint16_t, 8>;  // 16 bytes, the unit of the swizzle

struct Barrier {
  uint32_t count = 0, missing = 0;  // arrivals of a phase; those still to come
  uint64_t bytes = 0;               // announced in this phase
  uint64_t phase = 0;
  int waiting = 0;
  unsigned owner = 0;      // thread that initialised it
  bool published = false;  // by fence_barrier_init()
};

struct Load {
  SharedAddress to, barrier;
  DecodedMap map;
  int at[4];
  uint64_t bytes() const { return uint64_t{2} * map.box[0] * map.box[1] * map.box[2] * map.box[3]; }
};

struct Copies : BlockState {
  std::vector<unsigned char> arrived = std::vector<unsigned char>(static_cast<size_t>(shared_bytes()), kPoison);
  std::map<SharedAddress, Barrier> barriers;
  std::vector<Load> loads;

  std::string unfinished() const override {
    std::string text;
    for (const auto& [place, b] : barriers) {
      if (b.waiting == 0) continue;
      text += "\n  phase " + std::to_string(b.phase) + " of an mbarrier lacks " + std::to_string(b.missing) +
              " arrivals, expects " + std::to_string(b.bytes) + " bytes, " + std::to_string(under_way(place)) +
              " of them under way";
    }
    if (!loads.empty()) text += "\n  " + std::to_string(loads.size()) + " bulk copies that nobody has waited for";
    return text;
  }

  uint64_t under_way(SharedAddress barrier) const {
    uint64_t bytes = 0;
    for (const Load& load : loads) bytes += load.barrier == barrier ? load.bytes() : 0;
    return bytes;
  }
};

Copies& copies() {
  auto& state = block_state(BlockPart::copies);
  if (state == nullptr) state = std::make_unique<Copies>();
  return static_cast<Copies&>(*state);
}

[[noreturn]] void wrong(const std::string& what) { throw std::logic_error(what); }

unsigned char* memory_at(SharedAddress place) { return reinterpret_cast<unsigned char*>(place); }  // NOLINT

SharedAddress shared_begin() { return shared_address(shared_memory(0)); }

size_t offset_of(SharedAddress place, uint64_t bytes, const char* instruction) {
  const SharedAddress begin = shared_begin();
  if (place < begin || place + bytes > begin + static_cast<uint64_t>(shared_bytes())) {
    wrong(std::string(instruction) + ": an address outside the block's shared memory");
  }
  return place - begin;
}

Barrier& known(SharedAddress place, const char* instruction) {
  const auto found = copies().barriers.find(place);
  uint64_t mark = 0;
  offset_of(place, sizeof(mark), instruction);
  std::memcpy(&mark, memory_at(place), sizeof(mark));
  if (found == copies().barriers.end() || mark != kBarrierMark) {
    wrong(std::string(instruction) + ": no mbarrier was initialised there, or it was written over");
  }
  return found->second;
}

SharedAddress swizzled(SharedAddress place) {
  const uint32_t window = window_address(place);
  return place - window + (window ^ (window >> 7 & 7) << 4);
}

/// Element `column` of a row of the box, or 0 outside of the tensor.
uint16_t element(const Load& load, const int64_t (&row)[3], int column) {
  const DecodedMap& m = load.map;
  int64_t offset = load.at[0] + column;
  bool inside = offset >= 0 && offset < static_cast<int64_t>(m.sizes[0]);
  offset *= 2;
  for (int i = 0; i < 3; ++i) {
    const int64_t at = load.at[i + 1] + row[i];
    inside &= at >= 0 && at < static_cast<int64_t>(m.sizes[i + 1]);
    offset += at * static_cast<int64_t>(m.strides[i]);
  }
  uint16_t value = 0;
  if (inside) std::memcpy(&value, m.memory + offset, sizeof(value));
  return value;
}

void deliver(const Load& load) {
  const uint32_t* box = load.map.box;
  const SharedAddress begin = shared_begin();
  for (int64_t r = 0; r < int64_t{box[1]} * box[2] * box[3]; ++r) {
    const int64_t row[3] = {r % box[1], r / box[1] % box[2], r / box[1] / box[2]};
    for (int chunk = 0; chunk < kBoxColumns / 8; ++chunk) {
      Chunk values;
      for (int i = 0; i < 8; ++i) values[static_cast<size_t>(i)] = element(load, row, 8 * chunk + i);
      const SharedAddress to = swizzled(load.to + static_cast<uint64_t>(r) * 128 + static_cast<uint64_t>(chunk) * 16);
      std::memcpy(memory_at(to), values.data(), sizeof(values));
      std::memcpy(copies().arrived.data() + (to - begin), values.data(), sizeof(values));
    }
  }
}

/// Ends the phase where nothing is missing. Copies arrive only where somebody waits for them.
void settle(SharedAddress place, Barrier& b) {
  if (b.missing > 0) return;
  const uint64_t under_way = copies().under_way(place);
  if (under_way > b.bytes) wrong("an mbarrier's phase: copies bring more bytes than it expects");
  if (b.bytes > 0 && (b.waiting == 0 || under_way < b.bytes)) return;
  auto& loads = copies().loads;
  for (const Load& load : loads) {
    if (load.barrier == place) deliver(load);
  }
  std::erase_if(loads, [&](const Load& load) { return load.barrier == place; });
  ++b.phase;
  b.missing = b.count;
  b.bytes = 0;
  happened(memory_at(place));
}

void arrive(SharedAddress place, uint64_t bytes, const char* instruction) {
  Barrier& b = known(place, instruction);
  if (b.missing == 0) wrong(std::string(instruction) + ": more arrivals than the phase expects");
  --b.missing;
  b.bytes += bytes;
  settle(place, b);
}

/// Each lane brings its parts of four matrices; afterwards its words are the row that it names.
void collect(WarpWords& warp) {
  uint16_t rows[kLanes][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      uint16_t* pair = rows[8 * matrix + lane / 4] + lane % 4 * 2;
      pair[0] = static_cast<uint16_t>(warp.lane[lane][matrix]);
      pair[1] = static_cast<uint16_t>(warp.lane[lane][matrix] >> 16);
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) std::memcpy(warp.lane[lane], rows[lane], 16);
}

}  // namespace

uint32_t window_address(SharedAddress place) { return static_cast<uint32_t>(place - shared_begin() / 1024 * 1024); }

void mbarrier_init(SharedAddress barrier, uint32_t count) {
  offset_of(barrier, sizeof(kBarrierMark), "mbarrier_init");
  if (barrier % 8 != 0 || count == 0) wrong("mbarrier_init: an address that is no multiple of 8 bytes, or no arrivals");
  std::memcpy(memory_at(barrier), &kBarrierMark, sizeof(kBarrierMark));
  copies().barriers[barrier] = {.count = count, .missing = count, .owner = thread_in_block()};
}

void fence_barrier_init() {
  for (auto& [place, barrier] : copies().barriers) barrier.published |= barrier.owner == thread_in_block();
}

void mbarrier_expect_bytes(SharedAddress barrier, uint32_t bytes) { arrive(barrier, bytes, "mbarrier_expect_bytes"); }
void mbarrier_arrive(SharedAddress barrier) { arrive(barrier, 0, "mbarrier_arrive"); }

void mbarrier_wait(SharedAddress barrier, uint32_t parity) {
  Barrier& b = known(barrier, "mbarrier_wait");
  if (b.phase % 2 != parity) return;
  ++b.waiting;
  settle(barrier, b);
  while (b.phase % 2 == parity) wait_for(memory_at(barrier), "mbarrier_wait");
  --b.waiting;
}

void tma_load(SharedAddress to, const TensorMap* map, SharedAddress barrier, int at0, int at1, int at2, int at3) {
  const Load load{to, barrier, decode(*map), {at0, at1, at2, at3}};
  Barrier& b = known(barrier, "tma_load");
  if (!b.published) wrong("tma_load: an mbarrier that the copy engine does not know, for want of fence_barrier_init");
  if (to % 1024 != 0) wrong("tma_load: a destination that is no multiple of 1024 bytes");
  const size_t offset = offset_of(to, load.bytes(), "tma_load");
  std::memset(memory_at(to), kPoison, load.bytes());
  std::memset(copies().arrived.data() + offset, kPoison, load.bytes());
  copies().loads.push_back(load);
  settle(barrier, b);
}

void stmatrix_x4(SharedAddress row, const uint32_t (&r)[4]) {
  demand_shared_16(memory_at(row), "stmatrix");
  uint32_t words[4];
  std::memcpy(words, r, sizeof(words));
  warp_together("stmatrix", words, 4, collect);
  std::memcpy(memory_at(row), words, sizeof(words));
}

namespace cuda_host {

void copied_chunk(uint32_t window, uint16_t (&chunk)[8]) {
  const SharedAddress begin = shared_begin(), place = begin - window_address(begin) + window;
  const unsigned char* arrived = copies().arrived.data() + offset_of(place, sizeof(chunk), "wgmma");
  std::memset(chunk, kPoison, sizeof(chunk));
  if (std::memcmp(arrived, memory_at(place), sizeof(chunk)) == 0) std::memcpy(chunk, arrived, sizeof(chunk));
}

}  // namespace cuda_host

}  // namespace dither
