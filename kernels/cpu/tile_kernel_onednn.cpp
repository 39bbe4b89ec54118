// The tile product by oneDNN, versions 2 and 3: one matmul primitive a shape, made for a team of one thread.
//
// A primitive captures the number of threads when it is made, and would fan out or split k otherwise; with one it
// always adds in the same order. Its operands are dense and B is packed by us into the layout that oneDNN would choose,
// because otherwise it repacks B within every tile, and it leaves its fast path for operands with a stride.
#include "kernels/cpu/tile_kernel.h"

#ifdef DITHER_HAS_ONEDNN

#include <omp.h>

#include <oneapi/dnnl/dnnl.hpp>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "kernels/cpu/aligned_buffer.h"

namespace dither {

namespace {

using dnnl::matmul;
using dnnl::memory;

/// Sets the size of teams that this thread starts to one, for a while.
class TeamOfOne {
 public:
  TeamOfOne() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~TeamOfOne() { omp_set_num_threads(before_); }
  TeamOfOne(const TeamOfOne&) = delete;
  TeamOfOne& operator=(const TeamOfOne&) = delete;

 private:
  int before_;
};

/// What a thread needs to run primitives. Arguments are rebuilt by pointer only: maps of them would cost more than a
/// small tile.
struct Lane {
  dnnl::stream stream;
  AlignedBuffer scratch;
};

matmul::primitive_desc describe(const dnnl::engine& engine, const TileShape& shape, memory::data_type type,
                                memory::format_tag columns) {
  const memory::desc a({shape.rows, shape.k}, type, memory::format_tag::ab);
  const memory::desc b({shape.k, kTileColumns}, type, columns);
  const memory::desc c({shape.rows, kTileColumns}, memory::data_type::f32, memory::format_tag::ab);
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);  // the library's own is shared by all threads
  if (shape.accumulate) {
    dnnl::post_ops add;
    add.append_sum();
    attributes.set_post_ops(add);
  }
#if DNNL_VERSION_MAJOR >= 3
  return {engine, a, b, c, attributes};
#else
  return {matmul::desc(a, b, c), attributes, engine};
#endif
}

class OneDnnTile final : public Tile {
 public:
  OneDnnTile(const dnnl::engine& engine, const matmul::primitive_desc& description, std::vector<Lane>& lanes)
      : primitive_(description), lanes_(lanes) {
    const auto scratch_bytes = static_cast<int64_t>(description.scratchpad_desc().get_size());
    for (Lane& lane : lanes) {
      lane.scratch.reserve(scratch_bytes);
      arguments_.push_back(
          {memory(description.src_desc(), engine, nullptr), memory(description.weights_desc(), engine, nullptr),
           memory(description.dst_desc(), engine, nullptr), memory(description.scratchpad_desc(), engine, nullptr)});
    }
  }

  void multiply(int thread, const void* a, const void* b, float* c) const override {
    const TeamOfOne alone;
    const Lane& lane = lanes_[static_cast<size_t>(thread)];
    const Arguments& use = arguments_[static_cast<size_t>(thread)];
    use.a.set_data_handle(const_cast<void*>(a));  // the interface has no pointer to const; operands are only read
    use.b.set_data_handle(const_cast<void*>(b));
    use.c.set_data_handle(c);
    use.scratch.set_data_handle(lane.scratch.data());
    const dnnl_exec_arg_t list[] = {{DNNL_ARG_SRC, use.a.get()},
                                    {DNNL_ARG_WEIGHTS, use.b.get()},
                                    {DNNL_ARG_DST, use.c.get()},
                                    {DNNL_ARG_SCRATCHPAD, use.scratch.get()}};
    // Within a parallel loop nothing may be thrown, and a shape that could be made can only fail by a wrong program.
    DITHER_ASSERT(dnnl_primitive_execute(primitive_.get(), lane.stream.get(), 4, list) == dnnl_success);
  }

 private:
  struct Arguments {
    memory a, b, c, scratch;
  };
  matmul primitive_;
  std::vector<Lane>& lanes_;
  std::vector<Arguments> arguments_;  // one a thread
};

std::string instruction_set() {
  const auto isa = static_cast<unsigned>(dnnl::get_effective_cpu_isa());  // later sets contain the bits of earlier ones
  const auto has = [isa](dnnl::cpu_isa other) {
    return (isa & static_cast<unsigned>(other)) == static_cast<unsigned>(other);
  };
  if (has(dnnl::cpu_isa::avx512_core_amx)) return "AMX";
  if (has(dnnl::cpu_isa::avx512_core_bf16)) return "AVX512-BF16";
  if (has(dnnl::cpu_isa::avx512_core)) return "AVX-512";
  if (has(dnnl::cpu_isa::avx2)) return "AVX2";
  return "SSE4.1";
}

class OneDnnKernel final : public TileKernel {
 public:
  OneDnnKernel(DType type, memory::format_tag columns, int threads)
      : engine_(dnnl::engine::kind::cpu, 0), type_(type), columns_(columns) {
    for (int thread = 0; thread < threads; ++thread) lanes_.push_back({dnnl::stream(engine_), {}});
  }
  DType type() const override { return type_; }
  std::string name() const override {
    const dnnl_version_t* v = dnnl_version();
    return "oneDNN " + std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch) +
           " (" + instruction_set() + ")";
  }
  /// Whether oneDNN multiplies tiles in this layout by its code for tiles; its generic code would be far slower.
  bool is_fast() const {
    const TeamOfOne alone;
    try {
      const auto description = describe(engine_, {64, 64, false}, element(), columns_);
      return std::string_view(description.impl_info_str()).substr(0, 3) == "brg";
    } catch (const dnnl::error& error) {
      if (error.status == dnnl_unimplemented) return false;
      throw Error(std::string("matrix product: oneDNN: ") + error.what());
    }
  }

 private:
  memory::data_type element() const { return type_ == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32; }

  std::unique_ptr<Tile> make(const TileShape& shape) override {
    const TeamOfOne alone;
    try {
      return std::make_unique<OneDnnTile>(engine_, describe(engine_, shape, element(), columns_), lanes_);
    } catch (const dnnl::error& error) {
      throw Error("matrix product: oneDNN cannot multiply tiles of " + std::to_string(shape.rows) + " x " +
                  std::to_string(shape.k) + " x " + std::to_string(kTileColumns) + ": " + error.what());
    }
  }

  dnnl::engine engine_;
  DType type_;
  memory::format_tag columns_;
  std::vector<Lane> lanes_;  // one a thread; never resized, tiles refer to it
};

}  // namespace

std::unique_ptr<TileKernel> make_onednn_kernel(DType type, int threads) {
  const auto columns = type == DType::bf16 ? memory::format_tag::BA16a64b2a : memory::format_tag::BA16a64b;
  auto kernel = std::make_unique<OneDnnKernel>(type, columns, threads);
  if (kernel->is_fast()) return kernel;
  return nullptr;
}

}  // namespace dither

#else

namespace dither {
std::unique_ptr<TileKernel> make_onednn_kernel(DType /*type*/, int /*threads*/) { return nullptr; }
}  // namespace dither

#endif
