// Laws of the tokenizer: bytes in, bytes out; merges by rank; a file is read whole or refused.
#include "src/data/tokenizer.h"

#include <random>

#include "tests/catch.h"
#include "tests/data/files.h"

namespace dither {
using namespace test;

namespace {

/// A tokenizer.bin by the letter of docs/data-format.md: the 256 bytes, the given tokens, then end of text.
std::string file_of(const std::vector<std::string>& merged, uint32_t version = 2) {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  tokens.insert(tokens.end(), merged.begin(), merged.end());
  tokens.push_back("<|endoftext|>");
  std::string bytes(1024, '\0');
  put<uint32_t>(bytes, 0, 20240328);
  put<uint32_t>(bytes, 4, version);
  put<uint32_t>(bytes, 8, static_cast<uint32_t>(tokens.size()));
  put<uint32_t>(bytes, 12, static_cast<uint32_t>(tokens.size()) - 1);
  for (const std::string& token : tokens) {
    if (version == 2) {
      put(bytes, bytes.size(), static_cast<uint8_t>(token.size()));
    } else {
      put(bytes, bytes.size(), static_cast<uint16_t>(token.size()));
    }
    bytes += token;
  }
  return bytes;
}

std::vector<std::string> pieces(std::string_view text) {
  std::vector<std::string> found;
  while (!text.empty()) {
    const size_t length = gpt2_piece_length(text);
    found.emplace_back(text.substr(0, length));
    text.remove_prefix(length);
  }
  return found;
}

using Ids = std::vector<int32_t>;

}  // namespace

// Catches: signed bytes, a byte lost to the split, end of text made from text, byte counts that include end of text.
TEST_CASE("the byte tokenizer maps every byte to itself and back") {
  const Tokenizer tokenizer = byte_tokenizer();
  REQUIRE(tokenizer.vocabulary() == 257);
  REQUIRE(tokenizer.end_of_text() == 256);
  std::string all;
  Ids ids;
  for (int byte = 0; byte < 256; ++byte) {
    all += static_cast<char>(byte);
    ids.push_back(byte);
    REQUIRE(tokenizer.byte_length(byte) == 1);
  }
  REQUIRE(tokenizer.encode(all) == ids);
  REQUIRE(tokenizer.decode(ids) == all);
  REQUIRE(tokenizer.byte_length(256) == 0);
  REQUIRE(tokenizer.decode(Ids{72, 105, 256}) == "Hi<|endoftext|>");
  REQUIRE(tokenizer.encode("<|endoftext|>").size() == 13);
  REQUIRE(tokenizer.encode("").empty());
}

// Catches: any loss between encode and decode, whatever the bytes: not UTF-8, cut inside a character, zeros.
TEST_CASE("decode undoes encode on random bytes") {
  const Tokenizer merging =
      Tokenizer::parse(file_of({"ab", "aba", "  ", " a", std::string("\0b", 2), "\xFF\xFE"}), "test");
  std::mt19937 random(20240328);
  for (int round = 0; round < 300; ++round) {
    std::string text;
    const auto length = random() % 200;
    for (uint32_t i = 0; i < length; ++i) {
      text += round % 2 == 0 ? static_cast<char>(random()) : "ab \xFF\xFE'\n"[random() % 7];
    }
    REQUIRE(merging.decode(merging.encode(text)) == text);
    REQUIRE(byte_tokenizer().decode(byte_tokenizer().encode(text)) == text);
  }
}

// Catches: longest match instead of lowest rank, right to left, ranks that are not looked up again after a merge.
TEST_CASE("the pair of lowest id is merged first, the leftmost of equals") {
  const Tokenizer tokenizer = Tokenizer::parse(file_of({"bc", "ab", "aa", "aaa", "xbc"}), "test");  // ids 256 to 260
  REQUIRE(tokenizer.encode("abc") == Ids{'a', 256});
  REQUIRE(tokenizer.encode("abd") == Ids{257, 'd'});
  REQUIRE(tokenizer.encode("xbc") == Ids{260});
  REQUIRE(tokenizer.encode("aaaaa") == Ids{258, 259});
}

// Catches: a text that can forge the end of a document.
TEST_CASE("end of text never comes out of a text") {
  std::string file = file_of({"en", "end"});
  put<uint32_t>(file, 12, 257);  // "end" is the end of text
  REQUIRE(Tokenizer::parse(file, "test").encode("end") == Ids{256, 'd'});
}

// Catches: merges across the split, spaces that do not lead the word they precede. Pieces as GPT-2's published rule
// gives them for ASCII.
TEST_CASE("text is split as GPT-2 splits it") {
  using Pieces = std::vector<std::string>;
  REQUIRE(pieces("Hello world") == Pieces{"Hello", " world"});
  REQUIRE(pieces("it's we'll 'tis I'D") == Pieces{"it", "'s", " we", "'ll", " '", "tis", " I", "'", "D"});
  REQUIRE(pieces("a  b\n\nc") == Pieces{"a", " ", " b", "\n", "\n", "c"});
  REQUIRE(pieces("a   ") == Pieces{"a", "   "});
  REQUIRE(pieces("\n") == Pieces{"\n"});
  REQUIRE(pieces("x=12ab...!? (3)") == Pieces{"x", "=", "12", "ab", "...!?", " (", "3", ")"});
  REQUIRE(pieces(" \t x") == Pieces{" \t", " x"});
  REQUIRE(pieces("\t\tx") == Pieces{"\t", "\t", "x"});
  REQUIRE(pieces("caf\xC3\xA9 ok") == Pieces{"caf\xC3\xA9", " ok"});
  const Tokenizer crossing = Tokenizer::parse(file_of({"a ", " a"}), "test");
  REQUIRE(crossing.encode("a a") == Ids{'a', 257});
}

// Catches: 8-bit lengths in version 3, a version 2 written for tokens that do not fit it, a lost end of text.
TEST_CASE("both versions of tokenizer.bin are read and written back the same") {
  const std::string long_token(300, '=');
  for (const std::string& file : {file_of({"ab", std::string(255, '-'), ""}), file_of({"ab", long_token}, 3)}) {
    const Tokenizer tokenizer = Tokenizer::parse(file, "test");
    REQUIRE(tokenizer.serialize() == file);
  }
  const Tokenizer tokenizer = Tokenizer::parse(file_of({"ab", long_token}, 3), "test");
  REQUIRE(tokenizer.vocabulary() == 259);
  REQUIRE(tokenizer.byte_length(257) == 300);
  REQUIRE(tokenizer.decode(Ids{256, 257}) == "ab" + long_token);
  REQUIRE(Tokenizer::parse(file_of({"ab"}, 3), "test").serialize() == file_of({"ab"}, 2));  // 2 where it suffices
}

// Catches: a read beyond the file, memory asked for by the header, and each check left out. Every prefix is refused.
TEST_CASE("a damaged tokenizer is refused with its reason") {
  const std::string good = file_of({"ab", "abc"});
  const auto error_with = [](const std::string& bytes) { return error_of([&] { Tokenizer::parse(bytes, "t.bin"); }); };
  const auto changed = [&good](size_t word, uint32_t value) {
    std::string bytes = good;
    put(bytes, 4 * word, value);
    return bytes;
  };
  REQUIRE(error_with(good).empty());
  for (size_t length = 0; length < good.size(); ++length) {
    const std::string error = error_with(good.substr(0, length));
    REQUIRE(has(error, "t.bin: truncated: "));
  }
  REQUIRE(has(error_with(good.substr(0, 7)), "truncated: 7 bytes, but a tokenizer begins with a header of 1024"));
  REQUIRE(
      has(error_with(good.substr(0, good.size() - 1)), "truncated: it ends within token 258 of 259; make it again"));
  REQUIRE(has(error_with(good + "x"), "1 bytes are left after the last of 259 tokens"));
  REQUIRE(has(error_with(changed(0, 20240520)), "not a tokenizer: its first word is 20240520, needs 20240328"));
  REQUIRE(has(error_with(changed(1, 1)), "tokenizer of version 1, needs 2 or 3"));
  REQUIRE(has(error_with(changed(2, 0x7FFFFFFF)), "truncated"));  // promises 2^31 tokens: no memory is taken for them
  REQUIRE(has(error_with(changed(2, 0x80000000)), "a vocabulary of 2147483648"));
  REQUIRE(has(error_with(changed(3, 259)), "end of text is token 259 of a vocabulary of 259"));
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {  // whatever the bytes: a tokenizer or an Error
    std::string bytes = good;
    for (int change = 0; change < 3; ++change)
      bytes[random() % (round % 2 ? 16 : bytes.size())] = static_cast<char>(random());
    error_with(bytes);
  }
}

// Catches: ids out of range that read beyond the table; a missing file or byte without a message.
TEST_CASE("what a tokenizer cannot do is said") {
  const TemporaryFolder folder;
  REQUIRE(has(error_of([] { byte_tokenizer().decode(Ids{300}); }),
              "the byte tokenizer: token 300 is outside the tokenizer's vocabulary (0 to 256)"));
  REQUIRE(has(error_of([] { byte_tokenizer().decode(Ids{-1}); }), "token -1 is outside"));
  REQUIRE(has(error_of([&] { Tokenizer t(folder / "no.bin"); }),
              "no.bin: could not open the tokenizer: it cannot be opened: No such file"));
  REQUIRE(has(error_of([&] { Tokenizer t(folder.path()); }), "it is a directory, needs a tokenizer.bin"));
  std::string no_bytes = file_of({"ab"});
  no_bytes[1024 + 2 * 'q' + 1] = 'r';  // the token "q" now reads "r"
  REQUIRE(
      has(error_of([&] { Tokenizer::parse(no_bytes, "t.bin").encode("q"); }), "t.bin: no token stands for byte 0x71"));
}

TEST_CASE("the tokenizer lies beside the shards") {
  REQUIRE(tokenizer_path_beside("data/x/train_000000.bin") == "data/x/tokenizer.bin");
  REQUIRE(tokenizer_path_beside("train_000000.bin") == "tokenizer.bin");
}

}  // namespace dither
