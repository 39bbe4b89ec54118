// Model presets: the dimensions that were published, so that a config names a model instead of describing it.
//
// Sources: Radford et al. 2019 (GPT-2; the sizes are the true counts of parameters); Zhang et al., arXiv 2401.02385
// (TinyLlama); Touvron et al., arXiv 2307.09288 (Llama 2); Grattafiori et al., arXiv 2407.21783 and the models' own
// config files (Llama 3.1, 3.2); Yang et al., arXiv 2412.15115 (Qwen2.5); Yu et al., arXiv 2405.03637 (rotary GPTs).
// A test holds every count of parameters against the published figure.
//
// sequence_length is the length of pretraining, not the longest context that later training reached; a config may set
// another. Heads are hidden / heads wide in all of them, so head_size stays 0 and follows when a config changes either.

#include "src/config/presets.h"

namespace dither {
namespace {

constexpr int64_t kGpt2Vocabulary = 50257;
constexpr int64_t kByteVocabulary = 257;  // 256 bytes and end of text

/// The sizes of one model, as tables of papers give them.
struct Shape {
  int layers, hidden, heads, kv_heads, ffn;
  int64_t vocabulary;
  int sequence_length;
};

ModelConfig shaped(const char* name, Architecture family, const Shape& shape) {
  ModelConfig model = family_defaults(family);
  model.preset = name;
  model.layers = shape.layers;
  model.hidden = shape.hidden;
  model.heads = shape.heads;
  model.kv_heads = shape.kv_heads;
  model.ffn = shape.ffn;
  model.vocabulary = shape.vocabulary;
  model.sequence_length = shape.sequence_length;
  return model;
}

ModelPreset gpt2(const char* name, int layers, int hidden, int heads, const char* meaning) {
  return {name, meaning,
          shaped(name, Architecture::gpt2, {layers, hidden, heads, 0, 4 * hidden, kGpt2Vocabulary, 1024})};
}

/// GPT as in the Collage experiments: rotary positions on the whole head, untied embeddings.
ModelPreset rotary_gpt(const char* name, int layers, int hidden, int heads, const char* meaning) {
  ModelConfig model = shaped(name, Architecture::gpt2, {layers, hidden, heads, 0, 4 * hidden, kGpt2Vocabulary, 2048});
  model.positions = Positions::rotary;
  model.tied_embeddings = false;
  model.init_std = 0.021;
  return {name, meaning, model};
}

ModelPreset llama(const char* name, const Shape& shape, bool tied, const char* meaning) {
  ModelConfig model = shaped(name, Architecture::llama, shape);
  model.tied_embeddings = tied;
  return {name, meaning, model};
}

ModelPreset llama3(const char* name, const Shape& shape, bool tied, double factor, const char* meaning) {
  ModelPreset preset = llama(name, shape, tied, meaning);
  preset.model.rotary_base = 500000;
  preset.model.rotary_scaling = RotaryScaling::llama3;
  preset.model.rotary_factor = factor;
  return preset;
}

ModelPreset qwen2(const char* name, const Shape& shape, bool tied, const char* meaning) {
  ModelPreset preset = llama(name, shape, tied, meaning);
  preset.model.qkv_bias = true;
  preset.model.rotary_base = 1e6;
  preset.model.norm_epsilon = 1e-6;
  return preset;
}

}  // namespace

ModelConfig family_defaults(Architecture architecture) {
  ModelConfig model;
  model.architecture = architecture;
  if (architecture == Architecture::llama) return model;  // what ModelConfig begins with
  model.normalization = Normalization::layer_norm;
  model.positions = Positions::learned;
  model.activation = Activation::gelu;
  model.linear_bias = true;
  model.tied_embeddings = true;
  return model;
}

const std::vector<ModelPreset>& preset_table() {
  // Shapes: layers, hidden, heads, kv_heads, ffn, vocabulary, sequence_length.
  static const std::vector<ModelPreset> table = {
      gpt2("gpt2-124m", 12, 768, 12, "GPT-2 small"),
      gpt2("gpt2-350m", 24, 1024, 16, "GPT-2 medium"),
      gpt2("gpt2-774m", 36, 1280, 20, "GPT-2 large"),
      gpt2("gpt2-1558m", 48, 1600, 25, "GPT-2 XL"),
      llama("llama-tiny", {6, 192, 6, 3, 512, kByteVocabulary, 256}, true,
            "2.5 million parameters over bytes: trains in minutes on two CPU cores"),
      llama("tinyllama-1.1b", {22, 2048, 32, 4, 5632, 32000, 2048}, false, "TinyLlama"),
      llama3("llama-3.2-1b", {16, 2048, 32, 8, 8192, 128256, 8192}, true, 32, "Llama 3.2 1B"),
      llama("llama-2-7b", {32, 4096, 32, 32, 11008, 32000, 4096}, false, "Llama 2 7B"),
      llama3("llama-3.1-8b", {32, 4096, 32, 8, 14336, 128256, 8192}, false, 8, "Llama 3.1 8B"),
      qwen2("qwen2.5-0.5b", {24, 896, 14, 2, 4864, 151936, 4096}, true, "Qwen2.5 0.5B"),
      qwen2("qwen2.5-1.5b", {28, 1536, 12, 2, 8960, 151936, 4096}, true, "Qwen2.5 1.5B"),
      qwen2("qwen2.5-3b", {36, 2048, 16, 2, 11008, 151936, 4096}, true, "Qwen2.5 3B"),
      qwen2("qwen2.5-7b", {28, 3584, 28, 4, 18944, 152064, 4096}, false, "Qwen2.5 7B"),
      rotary_gpt("gpt-rotary-125m", 12, 768, 12, "rotary GPT of the Collage experiments, 125M"),
      rotary_gpt("gpt-rotary-1.3b", 24, 2048, 16, "rotary GPT of the Collage experiments, 1.3B"),
      rotary_gpt("gpt-rotary-2.7b", 32, 2560, 32, "rotary GPT of the Collage experiments, 2.7B"),
      rotary_gpt("gpt-rotary-6.7b", 32, 4096, 32, "rotary GPT of the Collage experiments, 6.7B"),
  };
  return table;
}

const ModelPreset* find_preset(const std::string& name) {
  for (const ModelPreset& preset : preset_table()) {
    if (preset.name == name) return &preset;
  }
  return nullptr;
}

std::vector<std::string> model_presets() {
  std::vector<std::string> names;
  for (const ModelPreset& preset : preset_table()) names.push_back(preset.name);
  return names;
}

}  // namespace dither
