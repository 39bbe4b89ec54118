// The table of parameters: counts, places, ids.
#include "src/model/parameter_table.h"

#include <set>

#include "tests/catch.h"

namespace dither {

namespace {

ModelConfig small(bool gpt2, bool tied) {
  ModelConfig m;
  m.architecture = gpt2 ? Architecture::gpt2 : Architecture::llama;
  m.layers = 3;
  m.hidden = 64;
  m.heads = 2;
  m.kv_heads = gpt2 ? 2 : 1;
  m.head_size = 32;
  m.ffn = 96;
  m.vocabulary = 61;
  m.sequence_length = 16;
  m.tied_embeddings = tied;
  if (gpt2) {
    m.normalization = Normalization::layer_norm;
    m.positions = Positions::learned;
    m.activation = Activation::gelu;
    m.linear_bias = true;
  }
  return m;
}

ParameterTable table_of(const ModelConfig& model, std::vector<ParameterKind> fp32_parameters = {},
                        bool decay_embeddings = true) {
  Config config;
  config.model = model;
  config.precision.fp32_parameters = std::move(fp32_parameters);
  config.optimizer.decay_embeddings = decay_embeddings;
  return ParameterTable(config);
}

}  // namespace

// Catches: padded rows or a tied head counted, a forgotten bias, KV heads taken for heads.
TEST_CASE("the count of parameters is the sum of the formula's terms") {
  const int64_t C = 64, F = 96, V = 61, T = 16;
  const int64_t gpt2_block = 4 * C + (3 * C * C + 3 * C) + (C * C + C) + (F * C + F) + (C * F + C);
  CHECK(table_of(small(true, true)).counted_elements() == V * C + T * C + 3 * gpt2_block + 2 * C);
  const int64_t llama_block = 2 * C + (C + 2 * 32) * C + C * C + 3 * C * F;
  CHECK(table_of(small(false, false)).counted_elements() == 2 * V * C + 3 * llama_block + C);
}

// Catches: overlapping tensors, leaves that straddle tensors, buckets that do not cover the flat array.
TEST_CASE("tensors lie apart, begin at multiples of a leaf, and buckets cover the flat arrays of both planes") {
  using Kinds = std::vector<ParameterKind>;
  for (const bool gpt2 : {true, false}) {
    for (const bool tied : {true, false}) {
      for (const Kinds& kinds :
           {Kinds{}, Kinds{ParameterKind::norm}, Kinds{ParameterKind::bias, ParameterKind::embedding}}) {
        const ParameterTable table = table_of(small(gpt2, tied), kinds);
        std::array<int64_t, kPlanes> end = {}, next = {};
        for (const Parameter& p : table.parameters()) {
          const size_t plane = static_cast<size_t>(p.plane);
          CHECK(p.offset % kLeafElements == 0);
          CHECK(p.offset >= end[plane]);
          end[plane] = p.offset + p.elements();
          const Extent& extent = table.buckets()[static_cast<size_t>(p.bucket)].extent(p.plane);
          CHECK(p.offset >= extent.offset);
          CHECK(end[plane] <= extent.offset + extent.elements);
        }
        for (const Bucket& bucket : table.buckets()) {
          for (size_t plane = 0; plane < kPlanes; ++plane) {
            CHECK(bucket.extents[plane].offset == next[plane]);
            next[plane] += bucket.extents[plane].elements;
          }
        }
        for (const Plane plane : kAllPlanes) {
          CHECK(end[static_cast<size_t>(plane)] <= table.flat_elements(plane));
          CHECK(next[static_cast<size_t>(plane)] == table.flat_elements(plane));
        }
      }
    }
  }
}

// Catches: a kind that brings another along, the head taken for an embedding, a segment in both planes or in none.
TEST_CASE("fp32_parameters moves exactly the tensors of its kinds to the FP32 plane") {
  const auto in_fp32 = [](const ParameterTable& table, const std::string& name) {
    for (const Parameter& p : table.parameters()) {
      if (p.name == name) return p.plane == Plane::fp32;
    }
    FAIL(name << " is not a parameter");
    return false;
  };
  const ParameterTable norms = table_of(small(true, false), {ParameterKind::norm});
  const ParameterTable biases = table_of(small(true, false), {ParameterKind::bias});
  const ParameterTable embeddings = table_of(small(true, false), {ParameterKind::embedding});
  struct Row {
    const char* name;
    bool norm, bias, embedding;
  };
  for (const Row& row :
       {Row{"token_embedding", false, false, true}, Row{"position_embedding", false, false, true},
        Row{"blocks.1.attention_norm.weight", true, false, false},
        Row{"blocks.1.attention_norm.bias", true, false, false}, Row{"final_norm.weight", true, false, false},
        Row{"blocks.0.attention.qkv.bias", false, true, false},
        Row{"blocks.2.feed_forward.down.bias", false, true, false},
        Row{"blocks.0.attention.qkv.weight", false, false, false}, Row{"head", false, false, false}}) {
    INFO(row.name);
    CHECK(in_fp32(norms, row.name) == row.norm);
    CHECK(in_fp32(biases, row.name) == row.bias);
    CHECK(in_fp32(embeddings, row.name) == row.embedding);
  }
  const size_t all = norms.parameters().size();
  CHECK(norms.segments(Plane::strategy).size() + norms.segments(Plane::fp32).size() == all);
  size_t in_buckets = 0;
  for (size_t b = 0; b < norms.buckets().size(); ++b) {
    for (const Plane plane : kAllPlanes) in_buckets += norms.bucket_segments(static_cast<int>(b), plane).size();
  }
  CHECK(in_buckets == all);
}

// Figures by hand: 8 bytes under bf16_sr, 2 (gradient) + 12 for what stays in FP32.
TEST_CASE("bytes a parameter are a mean over both planes") {
  Config config;
  config.model = small(false, false);
  config.precision.strategy = Strategy::bf16_sr;
  CHECK(bytes_per_parameter(config) == 8);
  config.precision.fp32_parameters = {ParameterKind::embedding};
  const double embedding = 61 * 64, all = static_cast<double>(table_of(config.model).counted_elements());
  CHECK(bytes_per_parameter(config) == Approx((14 * embedding + 8 * (all - embedding)) / all).epsilon(1e-12));
}

// Catches: two tensors that would draw the same noise; an id that depends on the number of layers.
TEST_CASE("ids of random draws are unique and do not change when the model grows") {
  const ParameterTable table = table_of(small(true, false));
  ModelConfig deeper = small(true, false);
  deeper.layers = 5;
  const ParameterTable grown = table_of(deeper);
  std::set<uint32_t> ids;
  for (const Parameter& p : table.parameters()) {
    CHECK(ids.insert(p.id).second);
    CHECK(p.id < (1u << 24));
    for (const Parameter& q : grown.parameters()) {
      if (q.name == p.name) CHECK(q.id == p.id);
    }
  }
}

TEST_CASE("weight decay is for matrices, and for embeddings unless the config says no") {
  for (const bool decay_embeddings : {true, false}) {
    const ParameterTable table = table_of(small(true, false), {}, decay_embeddings);
    for (const Parameter& p : table.parameters()) {
      const bool embedding = p.group == ParameterGroup::embedding;
      CHECK(p.decay == (p.columns > 1 && (!embedding || decay_embeddings)));
    }
  }
}

TEST_CASE("the parts of a Hugging Face checkpoint cover every counted row") {
  for (const bool gpt2 : {true, false}) {
    std::set<std::string> names;
    const ParameterTable table = table_of(small(gpt2, false));
    for (const Parameter& p : table.parameters()) {
      int64_t rows = 0;
      for (const HuggingFacePart& part : p.parts) {
        rows += part.rows;
        CHECK(names.insert(part.name).second);
      }
      CHECK(rows == p.counted_rows);
    }
  }
}

}  // namespace dither
