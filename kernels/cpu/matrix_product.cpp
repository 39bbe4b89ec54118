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

// Measured on Sapphire Rapids (2 MiB of L2 a core, AMX); see docs/results/matrix_products.md.
constexpr int64_t kChunkBytes = 8192;         // of a row: 4,096 BF16, so that layers up to that width need one chunk
constexpr int64_t kTileBytes = 512 * 1024;    // rows of A that a tile reads again for each panel
constexpr int64_t kBlockBytes = 1024 * 1024;  // rows of A of a block: half of L2
constexpr int64_t kSliceBytes = 8 * 1024 * 1024;  // packed B: stays in the last cache
constexpr int64_t kSmallestTile = 64, kLargestTile = 256;
constexpr int64_t kBlocks = 16;  // wanted at least, so that up to 8 threads have even shares

int64_t parts(int64_t count, int64_t size) { return (count + size - 1) / size; }
int64_t rounded_up(int64_t count, int64_t step) { return parts(count, step) * step; }

}  // namespace

Cuts cuts_of(int64_t M, int64_t N, int64_t K, int64_t element_bytes, bool pack_rows) {
  Cuts cuts;
  cuts.chunks = parts(K * element_bytes, kChunkBytes);
  cuts.chunk_k = rounded_up(parts(K, cuts.chunks), kTileStep);
  const int64_t row_bytes = cuts.chunk_k * element_bytes;
  const auto tile_rows = std::bit_floor(static_cast<uint64_t>(kTileBytes / row_bytes));
  cuts.tile_rows = std::clamp(static_cast<int64_t>(tile_rows), kSmallestTile, kLargestTile);

  const int64_t panels = parts(N, kTileColumns);
  const int64_t largest_rows = std::max(kBlockBytes / row_bytes / cuts.tile_rows, int64_t{1}) * cuts.tile_rows;
  cuts.block_rows = std::min(largest_rows, rounded_up(M, cuts.tile_rows));
  cuts.block_panels = pack_rows ? 16 : 4;
  cuts.block_panels = std::min(cuts.block_panels, panels);
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
  const Tile* whole_tile = nullptr;          // of tile_rows rows
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
    if (cuts.chunks == 1) lane.sums.reserve(panel_sums);
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

  const int64_t panels = parts(p.N, kTileColumns), rest_rows = p.M % cuts.tile_rows;
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
      if (p.M >= cuts.tile_rows) stage.whole_tile = tile(cuts.tile_rows);
      if (rest_rows > 0) stage.rest_tile = tile(rest_rows);
      run_stage(p, stage);
    }
  }
}

void MatrixProduct::run_stage(const Product& p, const Stage& stage) {
  const int64_t panel_bytes = stage.padded_k * kTileColumns * size_of(stage.packed);
  parallel_for(threads_, stage.panels, [&](int64_t panel) {
    const int64_t column = (stage.first_panel + panel) * kTileColumns;
    const MatrixPart part{column, std::min(kTileColumns, p.N - column), stage.first_k, stage.k, stage.padded_k};
    pack_columns(packed_columns_.data() + panel * panel_bytes, stage.packed, p.b, part);
  });
  const int64_t blocks = parts(p.M, stage.cuts.block_rows) * stage.panel_blocks();
  parallel_for(threads_, blocks, [&](int64_t block) { multiply_block(p, stage, block); });
}

namespace {

/// What is done to the finished sums of `rows` rows and `columns` columns of C, the first of which is at `at`.
template <class T>
void finish(const Product& p, const float* sums, int64_t rows, int64_t columns, int64_t row, int64_t column) {
  alignas(64) float bias[kTileColumns] = {};
  with_type(p.bias.type, [&]<class B>(B) {
    if (!p.bias) return;
    for (int64_t n = 0; n < columns; ++n) bias[n] = widened(data_of<B>(p.bias)[column + n]);
  });
  for (int64_t r = 0; r < rows; ++r) {
    const float* sum = sums + r * kTileColumns;
    T* c = data_of<T>(p.c) + (row + r) * p.N + column;
    T* pre_activation =
        p.epilogue == Epilogue::gelu ? data_of<T>(p.pre_activation) + (row + r) * p.N + column : nullptr;
    sweep(columns, [&](int64_t n, auto width) {
      Lanes value = load(sum + n, width);
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
  Lane& lane = lanes_[static_cast<size_t>(omp_get_thread_num())];
  const int64_t size = size_of(stage.packed);
  const int64_t row = block / stage.panel_blocks() * cuts.block_rows;
  const int64_t rows = std::min(cuts.block_rows, p.M - row);
  const int64_t first_panel = block % stage.panel_blocks() * cuts.block_panels;
  const int64_t last_panel = std::min(first_panel + cuts.block_panels, stage.panels);

  const char* a = static_cast<const char*>(p.a.data.at(row * p.a.stride).data);
  if (stage.pack_a) {
    pack_rows(lane.packed_rows.data(), stage.packed, p.a, {row, rows, stage.first_k, stage.k, stage.padded_k});
    a = lane.packed_rows.data();
  }
  for (int64_t panel = first_panel; panel < last_panel; ++panel) {
    const char* b = packed_columns_.data() + panel * stage.padded_k * kTileColumns * size;
    auto* sums = reinterpret_cast<float*>(lane.sums.data());
    if (cuts.chunks > 1) {
      const int64_t before = block * cuts.block_panels + panel - first_panel;
      sums = reinterpret_cast<float*>(sums_.data()) + before * cuts.block_rows * kTileColumns;
    }
    for (int64_t r = 0; r < rows; r += cuts.tile_rows) {
      const Tile* tile = rows - r >= cuts.tile_rows ? stage.whole_tile : stage.rest_tile;
      tile->multiply(omp_get_thread_num(), a + r * stage.padded_k * size, b, sums + r * kTileColumns);
    }
    if (!stage.last) continue;
    const int64_t column = (stage.first_panel + panel) * kTileColumns;
    const int64_t columns = std::min(kTileColumns, p.N - column);
    with_type(p.c.type, [&]<class T>(T) { finish<T>(p, sums, rows, columns, row, column); });
  }
}

}  // namespace dither
