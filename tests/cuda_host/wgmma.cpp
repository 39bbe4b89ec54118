// Products of a warpgroup on the host (ptx_hopper.h): started, committed and waited for by each warp for itself.
#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/cuda_host/ptx_hopper.h"

namespace dither {

namespace {

using namespace cuda_host;

constexpr int kLanes = 32;
constexpr unsigned char kPoison = 0xFF;
constexpr int kDepth = 16;  // k of a product

struct Chunk {  // 16 bytes, the unit of the swizzle
  uint16_t at[8];
};

[[noreturn]] void wrong(const char* what) { throw std::logic_error(what); }

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

struct Products : BlockState {
  std::map<unsigned, WarpProducts> warps;
  std::map<unsigned, std::vector<Product>> shared_by;  // the products of a warpgroup, in their order

  std::string unfinished() const override {
    std::string text;
    for (const auto& [warp, products] : warps) {
      const std::string name = "\n  warp " + std::to_string(warp);
      if (!products.queue.empty()) text += name + " has products that it has not waited for";
      const auto all = shared_by.find(warp / 4);
      if (all != shared_by.end() && products.started != all->second.size())
        text += name + " has not taken part in all products of its warpgroup";
      for (unsigned i = warp / 4 * 4; i < warp / 4 * 4 + 4; ++i) {
        if (!warps.contains(i)) text += "\n  warp " + std::to_string(i) + " has taken part in no product";
      }
    }
    return text;
  }
};

Products& products_of_block() {
  auto& state = block_state(BlockPart::products);
  if (state == nullptr) state = std::make_unique<Products>();
  return static_cast<Products&>(*state);
}

unsigned warp_of_lane() { return thread_in_block() / kLanes; }
WarpProducts& products_of_warp() { return products_of_block().warps[warp_of_lane()]; }

Chunk chunk_at(uint32_t window) {
  Chunk chunk;
  copied_chunk(window, chunk.at);
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
    constexpr uint64_t kReserved = 3ull << 14 | 3ull << 30 | 7ull << 46 | 0x3FFull << 52;
    if ((bits & kReserved) != 0) wrong("wgmma: a descriptor with bits set that have no meaning");
  }
  static uint32_t turned(uint32_t window) { return window ^ (window >> 7 & 7) << 4; }
  /// Elements k 8 half .. 8 half + 7 of row `row`, which is m or n.
  Chunk k_major(int row, int half) const {
    if (start % 128 > 96) wrong("wgmma: sixteen columns that leave the row of 128 bytes");
    const auto r = static_cast<uint32_t>(row);
    return chunk_at(turned(start + r / 8 * stride + r % 8 * 128 + static_cast<uint32_t>(half) * 16));
  }
  /// Elements n 8 eight .. 8 eight + 7 of k.
  Chunk n_major(int k, int eight) const {
    if (start % 128 != 0) wrong("wgmma: a matrix of contiguous n that does not begin with a row");
    const auto depth = static_cast<uint32_t>(k), e = static_cast<uint32_t>(eight);
    return chunk_at(turned(start + e / 8 * leading + depth / 8 * stride + depth % 8 * 128 + e % 8 * 16));
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
        chunk.at[pair] = static_cast<uint16_t>(s.a[lane][i]);
        chunk.at[pair + 1] = static_cast<uint16_t>(s.a[lane][i] >> 16);
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
      const uint32_t bits = before[i].at[j] == after[i].at[j] ? before[i].at[j] : 0xFFFFu;
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
  if (!untouched(s)) std::fill(c.begin(), c.end(), std::numeric_limits<float>::quiet_NaN());
  for (int lane = 0; lane < kLanes; ++lane) {
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
  const unsigned warp = warp_of_lane(), group = warp / 4;
  WarpProducts& products = products_of_warp();
  Started s;
  s.of = product_of(words, 0);
  for (int lane = 0; lane < kLanes; ++lane) {
    const Product p = product_of(words, lane);
    if (!same_kind(p, s.of)) wrong("wgmma: lanes of a warp differ in their descriptors");
    s.c[lane] = p.c;
    s.a[lane] = p.a;
    if (p.a != nullptr) demand_fenced(products, lane, p.a, 4 * sizeof(uint32_t));
  }
  std::vector<Product>& all = products_of_block().shared_by[group];
  if (all.size() == products.started) all.push_back(s.of);
  if (!same_kind(all[products.started], s.of)) wrong("wgmma: warps of a warpgroup differ in their descriptors");
  ++products.started;
  take_c(products, s);
  s.a_chunks = look_at_a(s, warp);
  s.b_chunks = look_at_b(s);
  s.group = products.group;
  products.queue.push_back(std::move(s));
}

void commit_for_warp(WarpWords&) { ++products_of_warp().group; }

void finish_for_warp(WarpWords& words) {
  const unsigned warp = warp_of_lane();
  WarpProducts& products = products_of_warp();
  const int64_t pending = words.lane[0][0];
  while (!products.queue.empty() && products.queue.front().group < products.group - pending) {
    finish_first(products, warp);
  }
  for (auto& fenced : products.fenced) fenced.clear();  // values that products have changed: no use keeping them
}

}  // namespace

void wgmma_commit() {
  uint32_t nothing = 0;
  warp_together("wgmma_commit", &nothing, 1, commit_for_warp);
}

namespace cuda_host {

void fence_registers(const void* registers, int64_t bytes) {
  const auto* at = static_cast<const unsigned char*>(registers);
  WarpProducts& products = products_of_warp();
  for (const Started& s : products.queue) {
    if (s.c[lane()] == registers) return;  // a chain goes on: its registers are not looked at again
  }
  products.fenced[lane()].push_back({at, {at, at + bytes}});
}

void finish_products(int latest_pending) {
  auto words = static_cast<uint32_t>(latest_pending);
  warp_together("wgmma_wait", &words, 1, finish_for_warp);
}

void demand_settled(const void* c) {
  for (const Started& s : products_of_warp().queue) {
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
