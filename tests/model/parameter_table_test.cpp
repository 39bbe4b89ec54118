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

}  // namespace

// Catches: padded rows or a tied head counted, a forgotten bias, KV heads taken for heads.
TEST_CASE("the count of parameters is the sum of the formula's terms") {
  const int64_t C = 64, F = 96, V = 61, T = 16;
  const int64_t gpt2_block = 4 * C + (3 * C * C + 3 * C) + (C * C + C) + (F * C + F) + (C * F + C);
  CHECK(ParameterTable(small(true, true), true).counted_elements() == V * C + T * C + 3 * gpt2_block + 2 * C);
  const int64_t llama_block = 2 * C + (C + 2 * 32) * C + C * C + 3 * C * F;
  CHECK(ParameterTable(small(false, false), true).counted_elements() == 2 * V * C + 3 * llama_block + C);
}

// Catches: overlapping tensors, leaves that straddle tensors, buckets that do not cover the flat array.
TEST_CASE("tensors lie apart, begin at multiples of a leaf, and buckets cover the flat array") {
  for (const bool gpt2 : {true, false}) {
    for (const bool tied : {true, false}) {
      const ParameterTable table(small(gpt2, tied), true);
      int64_t end = 0;
      for (const Parameter& p : table.parameters()) {
        CHECK(p.offset % kLeafElements == 0);
        CHECK(p.offset >= end);
        end = p.offset + p.elements();
        const Bucket& bucket = table.buckets()[static_cast<size_t>(p.bucket)];
        CHECK(p.offset >= bucket.offset);
        CHECK(end <= bucket.offset + bucket.elements);
      }
      CHECK(end <= table.flat_elements());
      int64_t next = 0;
      for (const Bucket& bucket : table.buckets()) {
        CHECK(bucket.offset == next);
        next += bucket.elements;
      }
      CHECK(next == table.flat_elements());
    }
  }
}

// Catches: two tensors that would draw the same noise; an id that depends on the number of layers.
TEST_CASE("ids of random draws are unique and do not change when the model grows") {
  const ParameterTable table(small(true, false), true);
  ModelConfig deeper = small(true, false);
  deeper.layers = 5;
  const ParameterTable grown(deeper, true);
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
    const ParameterTable table(small(true, false), decay_embeddings);
    for (const Parameter& p : table.parameters()) {
      const bool embedding = p.group == ParameterGroup::embedding;
      CHECK(p.decay == (p.columns > 1 && (!embedding || decay_embeddings)));
    }
  }
}

TEST_CASE("the parts of a Hugging Face checkpoint cover every counted row") {
  for (const bool gpt2 : {true, false}) {
    std::set<std::string> names;
    const ParameterTable table(small(gpt2, false), true);
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
