#include "tests/cuda_host/ptx_hopper.h"

#include <algorithm>
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
constexpr int kDepth = 16;                             // k of a product

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

/// A product of one warp, under way: its operands as they were when it started.
struct Started {
  Product of;  // the same in all lanes, but for the pointers
  float* c[kLanes];
  const uint32_t* a[kLanes];
  std::vector<Chunk> a_chunks, b_chunks;
  std::vector<float> value;  // of C before: [16, columns]; empty: what the product before it on the same C leaves
  int64_t group;
};

struct FencedRegisters {
  const unsigned char* at;
  std::vector<unsigned char> value;
};

struct WarpProducts {
  std::vector<Started> queue;
  std::vector<FencedRegisters> fenced[kLanes];
  int64_t group = 0;
  size_t started = 0;
};

bool same_kind(const Product& x, const Product& y) {
  return x.a_descriptor == y.a_descriptor && x.b_descriptor == y.b_descriptor && x.columns == y.columns &&
         x.accumulate == y.accumulate && x.n_major == y.n_major;
}

struct Hopper : BlockState {
  std::vector<unsigned char> arrived = std::vector<unsigned char>(static_cast<size_t>(shared_bytes()), kPoison);
  std::map<SharedAddress, Barrier> barriers;
  std::vector<Load> loads;
  std::map<unsigned, WarpProducts> warps;
  std::map<unsigned, std::vector<Product>> shared_by;  // the products of a warpgroup, in their order

  std::string unfinished() const override {
    std::string text;
    for (const auto& [place, b] : barriers) {
      if (b.waiting == 0) continue;
      text += "\n  phase " + std::to_string(b.phase) + " of an mbarrier lacks " + std::to_string(b.missing) +
              " arrivals, expects " + std::to_string(b.bytes) + " bytes, " + std::to_string(under_way(place)) +
              " of them under way";
    }
    if (!loads.empty()) text += "\n  " + std::to_string(loads.size()) + " bulk copies that nobody has waited for";
    for (const auto& [warp, products] : warps) {
      const std::string name = "\n  warp " + std::to_string(warp);
      if (!products.queue.empty()) text += name + " has products that it has not waited for";
      const size_t all = shared_by.at(warp / 4).size();
      if (products.started != all) text += name + " has not taken part in all products of its warpgroup";
      for (unsigned i = warp / 4 * 4; i < warp / 4 * 4 + 4; ++i) {
        if (!warps.contains(i)) text += "\n  warp " + std::to_string(i) + " has taken part in no product";
      }
    }
    return text;
  }

  uint64_t under_way(SharedAddress barrier) const {
    uint64_t bytes = 0;
    for (const Load& load : loads) bytes += load.barrier == barrier ? load.bytes() : 0;
    return bytes;
  }
};

Hopper& hopper() {
  if (block_state() == nullptr) block_state() = std::make_unique<Hopper>();
  return static_cast<Hopper&>(*block_state());
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
  const auto found = hopper().barriers.find(place);
  uint64_t mark = 0;
  offset_of(place, sizeof(mark), instruction);
  std::memcpy(&mark, memory_at(place), sizeof(mark));
  if (found == hopper().barriers.end() || mark != kBarrierMark) {
    wrong(std::string(instruction) + ": no mbarrier was initialised there, or it was written over");
  }
  if (!found->second.published && found->second.owner != thread_in_block()) {
    wrong(std::string(instruction) + ": an mbarrier that another thread has initialised, without its fence");
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
      std::memcpy(hopper().arrived.data() + (to - begin), values.data(), sizeof(values));
    }
  }
}

/// Ends the phase where nothing is missing. Copies arrive only where somebody waits for them.
void settle(SharedAddress place, Barrier& b) {
  if (b.missing > 0) return;
  const uint64_t under_way = hopper().under_way(place);
  if (under_way > b.bytes) wrong("an mbarrier's phase: copies bring more bytes than it expects");
  if (b.bytes > 0 && (b.waiting == 0 || under_way < b.bytes)) return;
  auto& loads = hopper().loads;
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

/// 16 bytes as a product sees them: poison where they are not what a copy brought.
Chunk operand_chunk(uint32_t window) {
  const SharedAddress begin = shared_begin(), place = begin - window_address(begin) + window;
  const size_t offset = offset_of(place, sizeof(Chunk), "wgmma");
  const unsigned char* arrived = hopper().arrived.data() + offset;
  Chunk chunk;
  std::memset(chunk.data(), kPoison, sizeof(chunk));
  if (std::memcmp(arrived, memory_at(place), sizeof(chunk)) == 0) std::memcpy(chunk.data(), arrived, sizeof(chunk));
  return chunk;
}

struct Descriptor {
  uint32_t start, leading, stride;
  explicit Descriptor(uint64_t bits)
      : start(static_cast<uint32_t>(bits & 0x3FFF) << 4),
        leading(static_cast<uint32_t>(bits >> 16 & 0x3FFF) << 4),
        stride(static_cast<uint32_t>(bits >> 32 & 0x3FFF) << 4) {
    if (bits >> 62 != 1) wrong("wgmma: a descriptor without the 128-byte swizzle, which is all that is modelled");
    if ((bits >> 49 & 7) != 0 || start % 1024 >= 128) wrong("wgmma: a matrix that does not begin with eight rows");
    if ((bits & 0x31C1C000C000C000) != 0) wrong("wgmma: a descriptor with bits set that have no meaning");
  }
  static uint32_t turned(uint32_t window) { return window ^ (window >> 7 & 7) << 4; }
  /// Elements k 8 half .. 8 half + 7 of row `row`, which is m or n.
  Chunk k_major(int row, int half) const {
    if (start % 128 > 96) wrong("wgmma: sixteen columns that leave the row of 128 bytes");
    const auto r = static_cast<uint32_t>(row);
    return operand_chunk(turned(start + r / 8 * stride + r % 8 * 128 + static_cast<uint32_t>(half) * 16));
  }
  /// Elements n 8 eight .. 8 eight + 7 of k.
  Chunk n_major(int k, int eight) const {
    if (start % 128 != 0) wrong("wgmma: a matrix of contiguous n that does not begin with a row");
    const auto depth = static_cast<uint32_t>(k), e = static_cast<uint32_t>(eight);
    return operand_chunk(turned(start + e / 8 * leading + depth / 8 * stride + depth % 8 * 128 + e % 8 * 16));
  }
};

/// A [16 rows of the warp, 16] by rows, two chunks each.
std::vector<Chunk> look_at_a(const Started& s, unsigned warp) {
  std::vector<Chunk> chunks(2 * kDepth);
  if (s.of.a != nullptr) {
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int i = 0; i < 4; ++i) {
        Chunk& chunk = chunks[static_cast<size_t>(2 * (lane / 4 + i % 2 * 8) + i / 2)];
        const auto pair = static_cast<size_t>(lane % 4 * 2);
        chunk[pair] = static_cast<uint16_t>(s.a[lane][i]);
        chunk[pair + 1] = static_cast<uint16_t>(s.a[lane][i] >> 16);
      }
    }
    return chunks;
  }
  const Descriptor a(s.of.a_descriptor);
  const int first = static_cast<int>(warp % 4) * 16;
  for (int i = 0; i < 2 * kDepth; ++i) chunks[static_cast<size_t>(i)] = a.k_major(first + i / 2, i % 2);
  return chunks;
}

/// B by rows of n, two chunks each, or by rows of k, columns / 8 chunks each.
std::vector<Chunk> look_at_b(const Started& s) {
  const Descriptor b(s.of.b_descriptor);
  const int eights = s.of.columns / 8;
  std::vector<Chunk> chunks(static_cast<size_t>(2 * s.of.columns));
  for (int i = 0; i < 2 * s.of.columns; ++i) {
    chunks[static_cast<size_t>(i)] = s.of.n_major ? b.n_major(i / eights, i % eights) : b.k_major(i / 2, i % 2);
  }
  return chunks;
}

/// The values that stayed the same, as floats; NaN for the others.
std::vector<float> settled_values(const std::vector<Chunk>& before, const std::vector<Chunk>& after) {
  std::vector<float> values;
  values.reserve(before.size() * 8);
  for (size_t i = 0; i < before.size(); ++i) {
    for (size_t j = 0; j < 8; ++j) {
      const uint32_t bits = before[i][j] == after[i][j] ? before[i][j] : 0xFFFFu;
      values.push_back(std::bit_cast<float>(bits << 16));
    }
  }
  return values;
}

size_t place_in_c(int lane, int i, int columns) {
  return static_cast<size_t>((lane / 4 + i / 2 % 2 * 8) * columns + i / 4 * 8 + lane % 4 * 2 + i % 2);
}

std::vector<float> multiply(const Started& s, unsigned warp) {
  const auto N = static_cast<size_t>(s.of.columns);
  const std::vector<float> a = settled_values(s.a_chunks, look_at_a(s, warp));
  const std::vector<float> b = settled_values(s.b_chunks, look_at_b(s));
  std::vector<float> by_k(b);
  if (!s.of.n_major) {
    for (size_t i = 0; i < b.size(); ++i) by_k[i % kDepth * N + i / kDepth] = b[i];
  }
  std::vector<float> c = s.of.accumulate ? s.value : std::vector<float>(16 * N);
  for (size_t m = 0; m < 16; ++m) {
    for (size_t k = 0; k < kDepth; ++k) {
      const float left = a[m * kDepth + k];
      for (size_t n = 0; n < N; ++n) c[m * N + n] += left * by_k[k * N + n];
    }
  }
  return c;
}

bool untouched(const Started& s) {
  const size_t bytes = static_cast<size_t>(s.of.columns) * 2;
  for (const float* c : s.c) {
    const auto* byte = reinterpret_cast<const unsigned char*>(c);
    if (!std::all_of(byte, byte + bytes, [](unsigned char x) { return x == kPoison; })) return false;
  }
  return true;
}

/// The first product of the queue has been waited for: its result goes to the next one on the same C, or to C.
void finish_first(WarpProducts& products, unsigned warp) {
  const Started s = std::move(products.queue.front());
  products.queue.erase(products.queue.begin());
  std::vector<float> c = multiply(s, warp);
  const int registers = s.of.columns / 2;
  for (Started& next : products.queue) {
    if (next.c[0] != s.c[0]) continue;
    next.value = std::move(c);
    return;
  }
  const bool fine = untouched(s);
  for (int lane = 0; lane < kLanes && fine; ++lane) {
    for (int i = 0; i < registers; ++i) s.c[lane][i] = c[place_in_c(lane, i, s.of.columns)];
  }
}

void demand_fenced(const WarpProducts& products, int lane, const void* registers, size_t bytes) {
  const auto* at = static_cast<const unsigned char*>(registers);
  for (const FencedRegisters& f : products.fenced[lane]) {
    if (at < f.at || at + bytes > f.at + f.value.size()) continue;
    if (std::memcmp(at, f.value.data() + (at - f.at), bytes) == 0) return;
  }
  wrong("wgmma: registers that no wgmma_fence has named since they were last touched");
}

/// Whether C is that of a product under way; one that lies across is wrong.
bool continues(const WarpProducts& products, const Started& s) {
  bool found = false;
  for (const Started& other : products.queue) {
    const bool same = other.c[0] == s.c[0] && other.of.columns == s.of.columns;
    const bool apart = other.c[0] + other.of.columns / 2 <= s.c[0] || s.c[0] + s.of.columns / 2 <= other.c[0];
    if (!same && !apart) wrong("wgmma: a C that lies across the C of a product of another shape under way");
    found |= same;
  }
  return found;
}

void take_c(WarpProducts& products, Started& s) {
  const size_t bytes = static_cast<size_t>(s.of.columns) * 2;
  const bool chained = continues(products, s);
  if (chained) return;
  s.value.resize(static_cast<size_t>(16 * s.of.columns));
  for (int lane = 0; lane < kLanes; ++lane) {
    demand_fenced(products, lane, s.c[lane], bytes);
    for (int i = 0; i < s.of.columns / 2; ++i) s.value[place_in_c(lane, i, s.of.columns)] = s.c[lane][i];
    std::memset(s.c[lane], kPoison, bytes);
  }
}

Product product_of(const WarpWords& words, int lane) {
  Product product;
  std::memcpy(&product, words.lane[lane], sizeof(product));
  return product;
}
static_assert(sizeof(Product) <= sizeof(uint32_t) * kLaneWords);

/// Run once for the warp, when its last lane has come.
void start_for_warp(WarpWords& words) {
  const unsigned warp = thread_in_block() / kLanes, group = warp / 4;
  WarpProducts& products = hopper().warps[warp];
  Started s;
  s.of = product_of(words, 0);
  for (int lane = 0; lane < kLanes; ++lane) {
    const Product p = product_of(words, lane);
    if (!same_kind(p, s.of)) wrong("wgmma: lanes of a warp differ in their descriptors");
    s.c[lane] = p.c;
    s.a[lane] = p.a;
    if (p.a != nullptr) demand_fenced(products, lane, p.a, 4 * sizeof(uint32_t));
  }
  std::vector<Product>& all = hopper().shared_by[group];
  if (all.size() == products.started) all.push_back(s.of);
  if (!same_kind(all[products.started], s.of)) wrong("wgmma: warps of a warpgroup differ in their descriptors");
  ++products.started;
  take_c(products, s);
  s.a_chunks = look_at_a(s, warp);
  s.b_chunks = look_at_b(s);
  s.group = products.group;
  products.queue.push_back(std::move(s));
}

void commit_for_warp(WarpWords&) { ++hopper().warps[thread_in_block() / kLanes].group; }

void finish_for_warp(WarpWords& words) {
  const unsigned warp = thread_in_block() / kLanes;
  WarpProducts& products = hopper().warps[warp];
  const int64_t pending = words.lane[0][0];
  while (!products.queue.empty() && products.queue.front().group < products.group - pending) {
    finish_first(products, warp);
  }
  for (auto& fenced : products.fenced) fenced.clear();
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
  hopper().barriers[barrier] = {.count = count, .missing = count, .owner = thread_in_block()};
}

void fence_barrier_init() {
  for (auto& [place, barrier] : hopper().barriers) barrier.published |= barrier.owner == thread_in_block();
}

void mbarrier_expect_bytes(SharedAddress barrier, uint32_t bytes) { arrive(barrier, bytes, "mbarrier_expect_bytes"); }
void mbarrier_arrive(SharedAddress barrier) { arrive(barrier, 0, "mbarrier_arrive"); }

void mbarrier_wait(SharedAddress barrier, uint32_t parity) {
  Barrier& b = known(barrier, "mbarrier_wait");
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
  std::memset(hopper().arrived.data() + offset, kPoison, load.bytes());
  hopper().loads.push_back(load);
  settle(barrier, b);
}

void wgmma_commit() { warp_together("wgmma_commit", nullptr, 0, commit_for_warp); }

void stmatrix_x4(SharedAddress row, const uint32_t (&r)[4]) {
  demand_shared_16(memory_at(row), "stmatrix");
  uint32_t words[4];
  std::memcpy(words, r, sizeof(words));
  warp_together("stmatrix", words, 4, collect);
  std::memcpy(memory_at(row), words, sizeof(words));
}

namespace cuda_host {

void fence_registers(const void* registers, int64_t bytes) {
  const auto* at = static_cast<const unsigned char*>(registers);
  WarpProducts& products = hopper().warps[thread_in_block() / kLanes];
  for (const Started& s : products.queue) {
    if (s.c[lane()] == registers) return;  // a chain goes on: its registers are not looked at again
  }
  products.fenced[lane()].push_back({at, {at, at + bytes}});
}

void finish_products(int latest_pending) {
  auto words = static_cast<uint32_t>(latest_pending);
  warp_together("wgmma_wait", &words, 1, finish_for_warp);
}

void demand_settled(const float* c) {
  for (const Started& s : hopper().warps[thread_in_block() / kLanes].queue) {
    if (s.c[lane()] == c) wrong("wgmma_wait: registers of a product that it does not wait for");
  }
}

void start_product(const Product& product) {
  uint32_t words[sizeof(Product) / sizeof(uint32_t)];
  std::memcpy(words, &product, sizeof(product));
  warp_together("wgmma", words, sizeof(words) / sizeof(uint32_t), start_for_warp);
}

}  // namespace cuda_host

}  // namespace dither
