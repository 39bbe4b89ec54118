// What a corpus as a whole is held to: one tokenizer, tokens that samples cover, validation text of its own.
#include <map>

#include "src/data/corpus_tokenizer.h"
#include "src/data/coverage.h"
#include "src/data/shared_text.h"
#include "tests/catch.h"
#include "tests/data/files.h"

namespace dither {
using namespace test;

namespace {

/// A tokenizer.bin of these strings; end of text is the last.
std::string tokenizer_bytes(const std::vector<std::string>& strings) {
  std::string bytes(1024, '\0');
  put<uint32_t>(bytes, 0, 20240328);
  put<uint32_t>(bytes, 4, 2);
  put<uint32_t>(bytes, 8, static_cast<uint32_t>(strings.size()));
  put<uint32_t>(bytes, 12, static_cast<uint32_t>(strings.size() - 1));
  for (const std::string& string : strings) bytes += static_cast<char>(string.size()) + string;
  return bytes;
}

/// Tokens of which no 128 in a row repeat.
std::vector<uint16_t> random_tokens(size_t count, uint32_t seed) {
  std::vector<uint16_t> tokens(count);
  for (uint16_t& token : tokens) token = static_cast<uint16_t>((seed = seed * 1664525u + 1013904223u) >> 20);
  return tokens;
}

}  // namespace

// Catches: tokens that vanish without a word, one too many or too few in a shard of exactly a window, a warning about
// the tail that every shard has.
TEST_CASE("tokens that are in no sample are counted, and told when they are more than a percent") {
  const TemporaryFolder folder;
  const auto coverage = [&](std::vector<size_t> sizes) {
    std::filesystem::remove_all(folder / "s");
    std::filesystem::create_directory(folder / "s");
    for (size_t i = 0; i < sizes.size(); ++i) {
      write_file(folder / ("s/" + std::to_string(i) + ".bin"), shard_bytes(counting<uint16_t>(0, sizes[i])));
    }
    return TokenShards(folder / "s/*.bin");
  };
  const auto figures = [](const TokenShards& shards) {
    const Coverage c = coverage_of(shards, 64);
    return std::vector<int64_t>{c.samples, c.unseen_tokens, c.short_shards};
  };
  REQUIRE(figures(coverage({65})) == std::vector<int64_t>{1, 0, 0});
  REQUIRE(figures(coverage({64, 0, 66})) == std::vector<int64_t>{1, 65, 2});
  REQUIRE(figures(coverage({64 * 10, 64 * 10 + 1})) == std::vector<int64_t>{19, 63, 0});
  REQUIRE(unseen_tokens_warning(coverage({64 * 200, 65}), 64).empty());  // 63 of 12,865
  const std::string warning = unseen_tokens_warning(coverage({64, 64, 66}), 64);
  REQUIRE(has(warning, "s/*.bin: 129 of its 194 tokens are in no sample (66.5 %): a sample needs 65 tokens in a row"));
  REQUIRE(has(warning, "2 of 3 shards are shorter than that"));
}

// Catches: files compared by name or size alone, text that begins elsewhere in training, a search of the first block
// only, a warning about texts that are different.
TEST_CASE("validation text that training has too is found, wherever it is") {
  const TemporaryFolder folder;
  const auto shards = [&](const std::string& name, const std::vector<uint16_t>& tokens) {
    write_file(folder / name, shard_bytes(tokens));
    return TokenShards(folder / name);
  };
  const std::vector<uint16_t> text = random_tokens(300'000, 1), other = random_tokens(20'000, 2);
  const TokenShards train = shards("train.bin", text);
  REQUIRE(shared_text_warning(train, shards("other.bin", other)).empty());
  REQUIRE(shared_text_warning(train, shards("same_size.bin", random_tokens(300'000, 3))).empty());
  REQUIRE(
      shared_text_warning(shards("copy.bin", text), train) ==
      "training and validation have the same text: " + folder / "train.bin" + " and " + folder / "copy.bin" +
          " have the same content: the loss on text that was trained on says nothing about other text\n       cure: "
          "validation shards of text that training does not have");
  const size_t begin = GENERATE(0, 12'345, 280'001);
  const std::vector<uint16_t> part(text.begin() + static_cast<std::ptrdiff_t>(begin),
                                   text.begin() + static_cast<std::ptrdiff_t>(begin) + 12'800);
  const TokenShards tail = shards("part.bin", part);
  const SharedText found = shared_text(train, tail);
  REQUIRE(found.pieces == 100);
  REQUIRE(found.found >= 98);  // one may lie across the end of a block
  REQUIRE(found.searched == 1);
  std::vector<uint16_t> mixed = other;  // an eighth of it
  std::copy_n(part.begin(), 2'560, mixed.begin() + 5 * 128);
  REQUIRE(has(shared_text_warning(train, shards("mixed.bin", mixed)), "/mixed.bin are in " + folder / "train.bin too"));
}

// Catches: rows of padding or dashes taken for a text.
TEST_CASE("what every text repeats is not called the same text") {
  const TemporaryFolder folder;
  std::vector<uint16_t> train = random_tokens(50'000, 5), validation = random_tokens(20'000, 6);
  std::fill_n(train.begin(), 10'000, uint16_t{7});
  std::fill_n(validation.begin() + 5'000, 10'000, uint16_t{7});
  write_file(folder / "train.bin", shard_bytes(train));
  write_file(folder / "val.bin", shard_bytes(validation));
  REQUIRE(shared_text_warning(TokenShards(folder / "train.bin"), TokenShards(folder / "val.bin")).empty());
}

// Catches: only the first folder looked at, tokenizers compared by size, a version of the format taken for another
// tokenizer.
TEST_CASE("a corpus has one tokenizer, and two that differ are named") {
  const TemporaryFolder folder;
  const std::string ab = tokenizer_bytes({"a", "b", "#"}), ac = tokenizer_bytes({"a", "c", "#"});
  for (const char* name : {"x", "y", "none"}) {
    std::filesystem::create_directory(folder / name);
    write_file(folder / (std::string(name) + "/train_0.bin"), shard_bytes<uint16_t>({0, 1}));
  }
  write_file(folder / "x/tokenizer.bin", ab);
  write_file(folder / "y/tokenizer.bin", ab);
  const std::string x = folder / "x/train_*.bin", y = folder / "y/train_*.bin", none = folder / "none/train_*.bin";
  REQUIRE(tokenizer_of(folder / "*/train_*.bin")->vocabulary() == 3);
  REQUIRE(tokenizer_of(folder / "x/gone_*.bin")->vocabulary() == 3);
  REQUIRE_FALSE(tokenizer_of(none));
  REQUIRE(tokenizer_of(none, y)->origin() == folder / "y/tokenizer.bin");
  REQUIRE(tokenizer_of(x, y)->origin() == folder / "x/tokenizer.bin");
  write_file(folder / "y/tokenizer.bin", ac);
  const std::string error = error_of([&] { tokenizer_of(x, y); });
  REQUIRE(has(error, folder / "x/tokenizer.bin" + " and " + folder / "y/tokenizer.bin" + " differ: 3 tokens, XXH3 "));
  REQUIRE(has(error_of([&] { tokenizer_of(folder / "*/train_*.bin"); }), " differ: 3 tokens"));
  REQUIRE(Tokenizer::parse(ab, "one").fingerprint() == Tokenizer::parse(ab, "two").fingerprint());
}

// Catches: ids between the tokenizer's and the model's vocabulary that are trained on without a word.
TEST_CASE("an id without a token is a fault of the data, even where the model has room for it") {
  const TemporaryFolder folder;
  write_file(folder / "x.bin", shard_bytes<uint16_t>({0, 1, 2, 3}));
  const TokenShards shards(folder / "x.bin");
  const Tokenizer three = Tokenizer::parse(tokenizer_bytes({"a", "", "#"}), "t.bin");
  REQUIRE(has(error_of([&] { check_tokens(shards, 8, &three); }), "t.bin has 3 tokens: it is not the tokenizer"));
  check_tokens(shards, 4, nullptr);
  REQUIRE(has(error_of([&] { check_tokens(shards, 3, &three); }), "token 3 at position 3"));
  REQUIRE((three.has_token(0) && three.has_token(2)));
  for (const int32_t id : {-1, 1, 3}) REQUIRE_FALSE(three.has_token(id));
}

}  // namespace dither
