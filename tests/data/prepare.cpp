// Laws of the preparation without Python: no byte lost, no line split, whole or not at all.
#include "src/data/prepare.h"

#include "src/data/token_shards.h"
#include "src/data/tokenizer.h"
#include "tests/catch.h"
#include "tests/data/files.h"

namespace dither {
using namespace test;

namespace {

std::string text_of(const std::string& pattern) {
  const TokenShards shards(pattern);
  std::vector<int32_t> ids;
  for (int64_t shard = 0; shard < shards.shards(); ++shard) {
    const size_t before = ids.size();
    ids.resize(before + shards.tokens(shard));
    shards.read(shard, 0, shards.tokens(shard), 257, ids.data() + before);
  }
  std::string text;
  for (const int32_t id : ids) text += id == 256 ? std::string("#") : std::string(1, static_cast<char>(id));
  return text;
}

std::string lines(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += "line " + std::to_string(i) + " \xC3\xA9\n";
  return text;
}

}  // namespace

// Catches: a missing end of text, files in another order, a cut inside a line or before its newline, signed bytes.
TEST_CASE("train and validation together are the documents, each with its end") {
  const TemporaryFolder folder;
  write_file(folder / "b.txt", "one\ntwo\nthree\nfour\n");  // 19 bytes: half of them are 9, the cut moves from 10 to 14
  write_file(folder / "a.txt", "1234\n6789\n");             // the cut falls on a line's start and stays
  const PreparedCorpus made = prepare_byte_corpus({folder / "b.txt", folder / "a.txt"}, folder / "out", 0.5);
  REQUIRE(text_of(folder / "out/train_*.bin") == "one\ntwo\nthree\n#1234\n#");
  REQUIRE(text_of(folder / "out/val_*.bin") == "four\n#6789\n#");
  REQUIRE(made.train_tokens == 21);
  REQUIRE(made.validation_tokens == 12);
  REQUIRE(made.train_shards == 1);
  REQUIRE(made.validation_shards == 1);
  const Tokenizer tokenizer(tokenizer_path_beside(folder / "out/train_000000.bin"));
  REQUIRE(tokenizer.serialize() == byte_tokenizer().serialize());
}

// Catches: a cut searched in the first block only, bytes lost between blocks of 1 MiB, a shard that is not full, a
// document that is forced into one shard, a cut that differs with the shards.
TEST_CASE("text longer than a block and shards shorter than a document lose nothing") {
  const TemporaryFolder folder;
  const std::string text = lines(200'000);  // 2.8 MB
  write_file(folder / "long.txt", text);
  const double fraction = GENERATE(0.01, 0.3, 0.75);
  const PreparedCorpus made = prepare_byte_corpus({folder / "long.txt"}, folder / "out", fraction, 500'000);
  const std::string train = text_of(folder / "out/train_*.bin"), validation = text_of(folder / "out/val_*.bin");
  REQUIRE(train.ends_with("\n#"));
  REQUIRE(train.substr(0, train.size() - 1) + validation == text + "#");
  const auto held_out = static_cast<double>(validation.size() - 1);
  REQUIRE(held_out <= fraction * static_cast<double>(text.size()));
  REQUIRE(held_out > fraction * static_cast<double>(text.size()) - 20);  // a line is at most 16 bytes long
  REQUIRE(made.train_tokens + made.validation_tokens == static_cast<int64_t>(text.size()) + 2);
  const TokenShards shards(folder / "out/train_*.bin");
  REQUIRE(shards.shards() == made.train_shards);
  for (int64_t shard = 0; shard + 1 < shards.shards(); ++shard) REQUIRE(shards.tokens(shard) == 500'000);
}

// Catches: an empty validation shard, a lone end of text where a document has no line to give.
TEST_CASE("without a fraction or without lines all goes to training") {
  const TemporaryFolder folder;
  write_file(folder / "one_line.txt", "no newline at all, but long enough");
  write_file(folder / "two.txt", "a\nb\n");
  prepare_byte_corpus({folder / "one_line.txt"}, folder / "none", 0.0);
  REQUIRE(text_of(folder / "none/train_*.bin") == "no newline at all, but long enough#");
  REQUIRE_FALSE(std::filesystem::exists(folder / "none/val_000000.bin"));
  prepare_byte_corpus({folder / "one_line.txt", folder / "two.txt"}, folder / "some", 0.5);
  REQUIRE(text_of(folder / "some/train_*.bin") == "no newline at all, but long enough#a\n#");
  REQUIRE(text_of(folder / "some/val_*.bin") == "b\n#");
}

// Catches: a last shard too short for any sample, a remainder that is lost or whose shard has an old count, the other
// split's file taken back in its place.
TEST_CASE("a remainder shorter than any window goes to the shard before it") {
  const TemporaryFolder folder;
  const int64_t shard = 1'100'000, rest = GENERATE(1, 1'048'576, 1'048'577);
  std::string text(static_cast<size_t>(2 * shard + rest - 1), 'x');  // and end of text
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>('a' + i % 23);
  text[1000] = '\n';
  write_file(folder / "x.txt", text);
  write_file(folder / "v.txt", "one\ntwo\n");  // its half opens the validation shard before training ends
  const PreparedCorpus made = prepare_byte_corpus({folder / "v.txt", folder / "x.txt"}, folder / "out", 0.0, shard);
  const TokenShards shards(folder / "out/train_*.bin");
  REQUIRE(shards.shards() == made.train_shards);
  REQUIRE(text_of(folder / "out/train_*.bin") == "one\ntwo\n#" + text + "#");
  const int64_t left = rest + 9;
  REQUIRE(shards.tokens(0) == shard);
  if (left > 1'048'576) {
    REQUIRE((shards.shards() == 3 && shards.tokens(2) == left));
  } else {
    REQUIRE((shards.shards() == 2 && shards.tokens(1) == shard + left));
  }
  REQUIRE_FALSE(std::filesystem::exists(folder / "out/train_000002.bin.partial"));
}

// Catches: archives, documents, records and other encodings tokenized as prose; prose that is refused.
TEST_CASE("what is no plain text is refused with the command that makes text of it") {
  using namespace std::string_literals;
  const TemporaryFolder folder;
  const std::string path = folder / "f";
  const auto error_with = [&](const std::string& bytes) {
    write_file(path, bytes);
    std::filesystem::remove_all(folder / "out");
    return error_of([&] { prepare_byte_corpus({path}, folder / "out", 0.0); });
  };
  const std::string rest = "and so on\nand on\n";
  const std::vector<std::pair<std::string, std::string>> kinds = {
      {"\x1F\x8B\x08"s, "zcat"},
      {"\xFD"
       "7zXZ\0"s,
       "xzcat"},
      {"\x28\xB5\x2F\xFD"s, "zstdcat"},
      {"BZh91AY&SY"s, "bzcat"},
      {"PAR1"s, "read_parquet"},
      {"%PDF-1.4\n"s, "pdftotext"},
      {"PK\x03\x04"s, "unzip"},
      {std::string(257, 'n') + "ustar", "tar"},
      {"\xFF\xFEh\0i\0"s, "iconv -f UTF-16 -t UTF-8"},
      {"\xFE\xFF\0h\0i"s, "iconv -f UTF-16 -t"},
      {"\xFF\xFE\0\0h\0\0\0"s, "iconv -f UTF-32"},
      {"h\0e\0l\0l\0o\0 \0a\0l\0l\0 \0o\0f\0"s, "iconv -f UTF-16LE"},
      {"text\0with a zero, "s, "tr -d '\\000'"},
      {"{\"text\": \"one\"}\n"s, "jq -r .text"},
      {shard_bytes<uint16_t>({1}), "data.train"}};
  for (const auto& [start, command] : kinds) {
    const std::string error =
        error_with(command == "jq -r .text" ? start + "{\"id\": 1, \"text\": \"two\"}\n" : start + rest);
    INFO(command);
    REQUIRE(has(error, path + ": "));
    REQUIRE(has(error, "needs plain text in UTF-8\n       cure: "));
    REQUIRE(has(error, command));
  }
  const std::string prose = lines(100'000);  // longer than what is read at once
  REQUIRE(has(error_with(prose + "\0"s), path + ": byte " + std::to_string(prose.size()) + " is 0, which no text has"));
  for (const std::string& text :
       {"{\n  \"text\": 1\n}\n"s, "BZh is a name\n"s, "{\"text\": \"x\"}\nprose\n"s, "PAR 1\n"s}) {
    REQUIRE(error_with(text).empty());
  }
  REQUIRE(error_with("\xEF\xBB\xBF" + rest).empty());
  REQUIRE(text_of(folder / "out/train_*.bin") == rest + "#");
}

// Catches: each check left out, a message that does not name the file, and anything left behind by a refusal.
TEST_CASE("what cannot be prepared is refused and leaves nothing behind") {
  const TemporaryFolder folder;
  const std::string good = folder / "good.txt", empty = folder / "empty.txt", out = folder / "out";
  write_file(good, "one\ntwo\n");
  write_file(empty, "");
  write_file(folder / "line.txt", "a single line\n");
  const auto error_with = [&](const std::vector<std::string>& files, double fraction, int64_t shard_tokens = 100) {
    return error_of([&] { prepare_byte_corpus(files, out, fraction, shard_tokens); });
  };
  REQUIRE(has(error_with({}, 0.1), "no text file to tokenize"));
  REQUIRE(has(error_with({good, folder / "no.txt"}, 0.1), folder / "no.txt" + ": no such text file"));
  REQUIRE(has(error_with({folder.path()}, 0.1), ": not a file; name text files one by one"));
  REQUIRE(has(error_with({good, empty}, 0.1), empty + ": the text file is empty; leave it out"));
  REQUIRE(has(error_with({good}, 1.0), "validation fraction is 1, needs 0 or more and less than 1"));
  REQUIRE(has(error_with({good}, -0.1), "validation fraction is -0.1"));
  REQUIRE(has(error_with({good}, 0.1, 0), "tokens per shard are 0, need 1 or more"));
  REQUIRE_FALSE(std::filesystem::exists(out));
  REQUIRE(has(error_with({folder / "line.txt"}, 0.5), "validation fraction 0.5 gives validation not one line"));
  REQUIRE(std::filesystem::is_empty(out));  // the training shard that was under way is gone

  prepare_byte_corpus({good}, out, 0.5);
  const std::string before = read_whole(out + "/train_000000.bin");
  REQUIRE(has(error_with({good}, 0.1), "is there already, and shards of two corpora must not mix; remove train_*.bin"));
  REQUIRE(read_whole(out + "/train_000000.bin") == before);
  REQUIRE(has(error_of([&] { prepare_byte_corpus({good}, good, 0.5); }), good + ": could not create the folder"));
}

}  // namespace dither
