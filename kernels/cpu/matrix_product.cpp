#include "kernels/cpu/matrix_product.h"

#include <omp.h>

#include <algorithm>
#include <bit>

#include "base/error.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector.h"
#include "kernels/numerics/elementary.h"

namespace dither {

namespace {

// Chosen on Sapphire Rapids (AMX, 2 MiB of L2 a core) with the products of GPT-2 124M at 1,024 tokens and of a Llama of
// 192 channels. Tiles alone reach 1,450 GFLOP/s a core there; reading from the last cache takes a third of that, so all
// that tiles read again must lie in L2.
constexpr int64_t kLongestRowBytes = 8192;        // of A: 4,096 BF16; up to here k stays whole and A is read in place
constexpr int64_t kChunkBytes = 2048;             // else k is cut into such chunks: a chunk of B fits in one slice
constexpr int64_t kTileBytes = 512 * 1024;        // rows of A of a block, which are read again for each panel
constexpr int64_t kSliceBytes = 2 * 1024 * 1024;  // packed B; 8 MiB lost a tenth
constexpr int64_t kBlockPanels = 4;               // of a block; few, so that threads get even shares
constexpr int64_t kPackedBlockPanels = 16;        // where the rows must be packed for each block: more work for them
constexpr int64_t kFewestBlocks = 4;              // if smaller blocks can do it; smaller ones read B more often
constexpr int64_t kFinishPanels = 4;              // panels that are finished together: 512 bytes of a BF16 row
constexpr int64_t kStripK = 256;                  // k of a panel that is packed at a time
constexpr int64_t kSmallestTile = 64, kLargestTile = 256;  // rows: fewer leave AMX waiting, more leave L2

int64_t parts(int64_t count, int64_t size) { return (count + size - 1) / size; }
int64_t rounded_up(int64_t count, int64_t step) { return parts(count, step) * step; }

}  // namespace

Cuts cuts_of(int64_t M, int64_t N, int64_t K, int64_t element_bytes, bool pack_rows) {
  Cuts cuts;
  cuts.chunks = K * element_bytes <= kLongestRowBytes ? 1 : parts(K * element_bytes, kChunkBytes);
  cuts.chunk_k = rounded_up(parts(K, cuts.chunks), kTileStep);
  cuts.chunks = parts(K, cuts.chunk_k);  // rounding up may have saved one
  const int64_t row_bytes = cuts.chunk_k * element_bytes;
  const auto rows = std::bit_floor(static_cast<uint64_t>(kTileBytes / row_bytes));
  cuts.block_rows = std::clamp(static_cast<int64_t>(rows), kSmallestTile, kLargestTile);

  const int64_t panels = parts(N, kTileColumns);
  cuts.block_panels = std::min(pack_rows ? kPackedBlockPanels : kBlockPanels, panels);
  const auto blocks = [&] { return parts(M, cuts.block_rows) * parts(panels, cuts.block_panels); };
  while (blocks() < kFewestBlocks && cuts.block_rows > kSmallestTile) cuts.block_rows /= 2;
  while (blocks() < kFewestBlocks && cuts.block_panels > kBlockPanels) cuts.block_panels /= 2;
  const int64_t panel_bytes = row_bytes * kTileColumns;
  cuts.slice_panels = std::max(kSliceBytes / panel_bytes / cuts.block_panels, int64_t{1}) * cuts.block_panels;
  cuts.slice_panels = std::min(cuts.slice_panels, rounded_up(panels, cuts.block_panels));
  return cuts;
}

struct MatrixProduct::Stage {
  Cuts cuts{};
  DType packed = DType::none;  // type of packed operands
  bool pack_a = false;
  int64_t first_panel = 0, panels = 0;       // of the slice
  int64_t first_k = 0, k = 0, padded_k = 0;  // of the chunk
  bool last = false;                         // chunk
  const Tile* whole_tile = nullptr;          // of block_rows rows
  const Tile* rest_tile = nullptr;           // of those left at the end

  int64_t panel_blocks() const { return parts(panels, cuts.block_panels); }
};

MatrixProduct::MatrixProduct(int threads, Kernels kernels) : threads_(threads), lanes_(static_cast<size_t>(threads)) {
  if (kernels == Kernels::best) bf16_kernel_ = make_onednn_kernel(DType::bf16, threads);
  if (kernels != Kernels::plain) fp32_kernel_ = make_onednn_kernel(DType::fp32, threads);
  if (!fp32_kernel_) fp32_kernel_ = make_plain_kernel();
}

std::string MatrixProduct::description() const { return (bf16_kernel_ ? bf16_kernel_ : fp32_kernel_)->name(); }

int64_t MatrixProduct::memory_bytes() const {
  int64_t total = packed_columns_.bytes() + sums_.bytes();
  for (const Lane& lane : lanes_) total += lane.packed_rows.bytes() + lane.sums.bytes();
  return total;
}

TileKernel& MatrixProduct::kernel_of(DType type) const {
  return type == DType::bf16 && bf16_kernel_ ? *bf16_kernel_ : *fp32_kernel_;
}

void MatrixProduct::reserve(const Cuts& cuts, int64_t M, DType packed, bool pack_a) {
  packed_columns_.reserve(cuts.slice_panels * kTileColumns * cuts.chunk_k * size_of(packed));
  const int64_t panel_sums = cuts.block_rows * kTileColumns * size_of(DType::fp32);
  if (cuts.chunks > 1) sums_.reserve(parts(M, cuts.block_rows) * cuts.slice_panels * panel_sums);
  for (Lane& lane : lanes_) {
    if (cuts.chunks == 1) lane.sums.reserve(kFinishPanels * panel_sums);
    if (pack_a) lane.packed_rows.reserve(cuts.block_rows * cuts.chunk_k * size_of(packed));
  }
}

void MatrixProduct::multiply(const Product& p) {
  DITHER_ASSERT(p.M >= 1 && p.N >= 1 && p.N % 8 == 0 && p.K >= 1);
  TileKernel& kernel = kernel_of(p.a.data.type);
  const auto cuts_when = [&](bool pack_a) { return cuts_of(p.M, p.N, p.K, size_of(kernel.type()), pack_a); };
  const bool fits = p.a.contiguous == Contiguous::contracted && p.a.data.type == kernel.type() && p.a.stride == p.K;
  const bool pack_a = !(fits && p.K % kTileStep == 0 && cuts_when(false).chunks == 1);
  const Cuts cuts = cuts_when(pack_a);
  reserve(cuts, p.M, kernel.type(), pack_a);

  const int64_t panels = parts(p.N, kTileColumns), rest_rows = p.M % cuts.block_rows;
  for (int64_t panel = 0; panel < panels; panel += cuts.slice_panels) {
    for (int64_t first_k = 0; first_k < p.K; first_k += cuts.chunk_k) {
      Stage stage;
      stage.cuts = cuts;
      stage.packed = kernel.type();
      stage.pack_a = pack_a;
      stage.first_panel = panel;
      stage.panels = std::min(cuts.slice_panels, panels - panel);
      stage.first_k = first_k;
      stage.k = std::min(cuts.chunk_k, p.K - first_k);
      stage.padded_k = rounded_up(stage.k, kTileStep);
      stage.last = first_k + stage.k == p.K;
      const auto tile = [&](int64_t rows) { return &kernel.prepare({rows, stage.padded_k, first_k > 0}); };
      if (p.M >= cuts.block_rows) stage.whole_tile = tile(cuts.block_rows);
      if (rest_rows > 0) stage.rest_tile = tile(rest_rows);
      run_stage(p, stage);
    }
  }
}

void MatrixProduct::pack_strip(const Product& p, const Stage& stage, int64_t panel, int64_t strip) {
  const int64_t column = (stage.first_panel + panel) * kTileColumns, first_k = strip * kStripK;
  const MatrixPart part{column, std::min(kTileColumns, p.N - column), stage.first_k + first_k,
                        std::min(kStripK, stage.k - first_k), std::min(kStripK, stage.padded_k - first_k)};
  const int64_t offset = (panel * stage.padded_k + first_k) * kTileColumns;
  pack_columns(packed_columns_.data() + offset * size_of(stage.packed), stage.packed, p.b, part);
}

void MatrixProduct::run_stage(const Product& p, const Stage& stage) {
  // Each thread reads whole columns where they lie contiguous, else whole rows of the slice: as few streams as can be.
  const bool by_column = p.b.contiguous == Contiguous::contracted;
  const int64_t strips = parts(stage.padded_k, kStripK);
  parallel_for(threads_, by_column ? stage.panels : strips, [&](int64_t part) {
    const int64_t count = by_column ? strips : stage.panels;
    for (int64_t i = 0; i < count; ++i) pack_strip(p, stage, by_column ? part : i, by_column ? i : part);
  });
  const int64_t blocks = parts(p.M, stage.cuts.block_rows) * stage.panel_blocks();
  parallel_for(threads_, blocks, [&](int64_t block) { multiply_block(p, stage, block); });
}

namespace {

/// Which part of C a thread finishes.
struct Patch {
  int64_t row, rows, column, columns;
};

/// From sums [panels][panel_rows][64] into C: bias, rounding, GELU. Row by row over all panels, so that each row of C
/// is written as one stream.
template <class T>
void finish(const Product& p, const float* sums, int64_t panel_rows, const Patch& patch) {
  alignas(64) float bias[kFinishPanels * kTileColumns] = {};
  with_type(p.bias.type, [&]<class B>(B) {
    if (!p.bias) return;
    for (int64_t n = 0; n < patch.columns; ++n) bias[n] = widened(data_of<B>(p.bias)[patch.column + n]);
  });
  for (int64_t r = 0; r < patch.rows; ++r) {
    const int64_t start = (patch.row + r) * p.N + patch.column;
    T* c = data_of<T>(p.c) + start;
    T* pre_activation = p.epilogue == Epilogue::gelu ? data_of<T>(p.pre_activation) + start : nullptr;
    sweep(patch.columns, [&](int64_t n, auto width) {
      const int64_t panel = n / kTileColumns;
      Lanes value = load(sums + (panel * panel_rows + r) * kTileColumns + n % kTileColumns, width);
      if (p.bias) value = value + load(bias + n, width);
      if (p.accumulate) value = load(c + n, width) + value;
      if (pre_activation != nullptr) {
        store(pre_activation + n, value, width);
        value = map(load(pre_activation + n, width), [](float v) { return gelu(v); });
      }
      store(c + n, value, width);
    });
  }
}

}  // namespace

void MatrixProduct::multiply_block(const Product& p, const Stage& stage, int64_t block) {
  const Cuts& cuts = stage.cuts;
  const int thread = omp_get_thread_num();
  Lane& lane = lanes_[static_cast<size_t>(thread)];
  const int64_t size = size_of(stage.packed), panel_sums = cuts.block_rows * kTileColumns;
  const int64_t row = block / stage.panel_blocks() * cuts.block_rows;
  const int64_t rows = std::min(cuts.block_rows, p.M - row);
  const int64_t first_panel = block % stage.panel_blocks() * cuts.block_panels;
  const int64_t last_panel = std::min(first_panel + cuts.block_panels, stage.panels);
  const Tile& tile = rows == cuts.block_rows ? *stage.whole_tile : *stage.rest_tile;

  const char* a = static_cast<const char*>(p.a.data.at(row * p.a.stride).data);
  if (stage.pack_a) {
    pack_rows(lane.packed_rows.data(), stage.packed, p.a, {row, rows, stage.first_k, stage.k, stage.padded_k});
    a = lane.packed_rows.data();
  }
  for (int64_t first = first_panel; first < last_panel; first += kFinishPanels) {
    const int64_t last = std::min(first + kFinishPanels, last_panel);
    auto* sums = reinterpret_cast<float*>(lane.sums.data());
    if (cuts.chunks > 1) {
      sums = reinterpret_cast<float*>(sums_.data()) + (block * cuts.block_panels + first - first_panel) * panel_sums;
    }
    for (int64_t panel = first; panel < last; ++panel) {
      const char* b = packed_columns_.data() + panel * stage.padded_k * kTileColumns * size;
      tile.multiply(thread, a, b, sums + (panel - first) * panel_sums);
    }
    if (!stage.last) continue;
    const int64_t column = (stage.first_panel + first) * kTileColumns;
    const Patch patch{row, rows, column, std::min((last - first) * kTileColumns, p.N - column)};
    with_type(p.c.type, [&]<class T>(T) { finish<T>(p, sums, cuts.block_rows, patch); });
  }
}

}  // namespace dither
