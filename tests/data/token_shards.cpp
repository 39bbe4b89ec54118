// Laws of token shards: what is read is what was written, at every width and position, and nothing wrong passes.
#include "src/data/token_shards.h"

#include <sys/resource.h>
#include <sys/stat.h>

#include <thread>

#include "tests/catch.h"
#include "tests/data/files.h"

namespace dither {
using namespace test;

// Catches: 16 bits read where 32 are meant, signed 16-bit ids, an offset in bytes, a header counted as tokens.
TEST_CASE("a shard gives back its tokens at both widths") {
  const TemporaryFolder folder;
  const std::vector<uint16_t> narrow = {0, 1, 32767, 32768, 65535, 7};
  const std::vector<uint32_t> wide = {0, 1, 65535, 65536, 128255, 0x7FFFFFFE};
  write_file(folder / "a.bin", shard_bytes(narrow));
  write_file(folder / "b.bin", shard_bytes(wide));
  const TokenShards shards(folder / "*.bin");  // both widths in one corpus

  REQUIRE(shards.shards() == 2);
  REQUIRE(shards.tokens() == 12);
  std::vector<int32_t> out(6, -7);
  shards.read(0, 0, 6, 65536, out.data());
  REQUIRE(out == std::vector<int32_t>(narrow.begin(), narrow.end()));
  shards.read(1, 0, 6, 0x7FFFFFFF, out.data());
  REQUIRE(out == std::vector<int32_t>(wide.begin(), wide.end()));
  shards.read(1, 4, 2, 0x7FFFFFFF, out.data());
  REQUIRE(out[0] == 128255);
  REQUIRE(out[1] == 0x7FFFFFFE);
}

// Catches: the order of the directory or of the locale ("B" after "a"), a pattern taken for a name and the reverse.
TEST_CASE("shards come in the order of their names' bytes") {
  const TemporaryFolder folder;
  for (const char* name : {"t_000010.bin", "t_000002.bin", "t_B.bin", "t_a.bin", "other.bin"}) {
    write_file(folder / name, shard_bytes<uint16_t>({1, 2}));
  }
  const TokenShards shards(folder / "t_*.bin");
  REQUIRE(shards.shards() == 4);
  for (const auto& [shard, name] :
       {std::pair{0, "t_000002.bin"}, {1, "t_000010.bin"}, {2, "t_B.bin"}, {3, "t_a.bin"}}) {
    REQUIRE(shards.path(shard) == folder / name);
  }
  write_file(folder / "odd[1].bin", shard_bytes<uint16_t>({1, 2, 3}));
  REQUIRE(TokenShards(folder / "odd[1].bin").tokens() == 3);
}

// Catches: positions or counts in 32 bits, the count's high word ignored. The file is sparse: it takes no room.
TEST_CASE("the last token of a shard of seven billion is found") {
  const TemporaryFolder folder;
  const std::string path = folder / "large.bin";
  const int64_t tokens = 3'000'000'000 + (int64_t{1} << 32);  // both halves of the count are at work
  std::string header = shard_bytes<uint16_t>({});
  put<uint64_t>(header, 8, tokens);
  write_file(path, header);
  std::filesystem::resize_file(path, 1024 + 2 * tokens);
  {
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(1024 + 2 * (tokens - 3));
    file.write("\x01\x00\x02\x00\x03\x00", 6);
  }
  const TokenShards shards(path);
  REQUIRE(shards.tokens() == tokens);
  std::vector<int32_t> out(4);
  shards.read(0, tokens - 4, 4, 100, out.data());
  REQUIRE(out == std::vector<int32_t>{0, 1, 2, 3});
  REQUIRE(has(error_of([&] { shards.read(0, tokens - 4, 4, 3, out.data()); }), "position 7294967295 "));
}

// Catches: a check of the first tokens only, of the input but not the last target, `>` for `>=`, an id above 2^31 that
// passes as negative.
TEST_CASE("a token beyond the vocabulary is refused wherever it stands, with its place") {
  const TemporaryFolder folder;
  const size_t place = GENERATE(0, 1, 63, 64, 99);
  std::vector<uint16_t> narrow(100, 49);
  narrow[place] = 50;
  std::vector<uint32_t> wide(100, 49);
  wide[place] = 0x80000005u;
  write_file(folder / "narrow.bin", shard_bytes(narrow));
  write_file(folder / "wide.bin", shard_bytes(wide));
  std::vector<int32_t> out(100);

  const TokenShards shards(folder / "narrow.bin");
  const std::string error = error_of([&] { shards.read(0, 0, 100, 50, out.data()); });
  REQUIRE(has(error, folder / "narrow.bin" + ": token 50 at position " + std::to_string(place) + " "));
  REQUIRE(has(error, "the vocabulary has 50 tokens (0 to 49)"));
  shards.read(0, 0, 100, 51, out.data());
  const TokenShards wide_shards(folder / "wide.bin");
  REQUIRE(has(error_of([&] { wide_shards.read(0, 0, 100, 50, out.data()); }),
              "token 2147483653 at position " + std::to_string(place)));
}

// Catches: a check that ends with the first piece or shard, pieces with a gap between them.
TEST_CASE("the check of a whole corpus finds a bad token behind all good ones") {
  const TemporaryFolder folder;
  std::vector<uint16_t> tokens(200001, 3);
  write_file(folder / "a.bin", shard_bytes(tokens));
  for (const size_t place : {size_t{65535}, size_t{65536}, size_t{200000}}) {
    tokens[place] = 9;
    write_file(folder / "b.bin", shard_bytes(tokens));
    const TokenShards shards(folder / "*.bin");
    REQUIRE(
        has(error_of([&] { shards.check(9); }), folder / "b.bin" + ": token 9 at position " + std::to_string(place)));
    shards.check(10);
    tokens[place] = 3;
  }
}

// Catches: each check left out; a message that does not say which file, what was found and what to do.
TEST_CASE("a damaged or foreign shard is refused with its reason") {
  const TemporaryFolder folder;
  const std::string path = folder / "shard.bin";
  const std::string good = shard_bytes<uint16_t>({1, 2, 3, 4});
  const auto error_with = [&](const std::string& bytes) {
    write_file(path, bytes);
    const std::string error = error_of([&] { TokenShards shards(path); });
    if (!error.empty()) REQUIRE(has(error, path + ": "));
    return error;
  };
  const auto changed = [&](size_t word, uint32_t value) {
    std::string bytes = good;
    put(bytes, 4 * word, value);
    return bytes;
  };

  REQUIRE(error_with(good).empty());
  REQUIRE(has(error_with(""), "the file is empty; make shards with"));
  REQUIRE(
      has(error_with(good.substr(0, 1023)), "truncated: 1023 bytes, but a token shard begins with a header of 1024"));
  REQUIRE(has(error_with(good.substr(0, 1030)),
              "truncated: the header promises 4 tokens of 2 bytes, the file holds 6 bytes "
              "after its header, 3 tokens"));
  REQUIRE(has(error_with(good.substr(0, 1031)),
              "truncated: the header promises 4 tokens of 2 bytes, the file holds 7 bytes "
              "after its header, 3 tokens and a part"));
  REQUIRE(has(error_with(good + "x"), "longer than its header says: the header promises 4 tokens"));
  REQUIRE(has(error_with(good + "xy"), "longer than its header says: the header promises 4 tokens"));
  REQUIRE(
      has(error_with(changed(0, 20240521)), "not a token shard: its first word is 20240521, needs 20240520 (uint16"));
  REQUIRE(
      has(error_with(changed(1, 2)), "of version 2, but with magic 20240520 only version 1 (uint16 tokens) is known"));
  REQUIRE(has(error_with(changed(0, 20240801)), "only version 7 (uint32 tokens)"));  // narrow body under the wide magic
  REQUIRE(has(error_with(changed(2, 0xFFFFFFFF)), "promises 4294967295 tokens"));    // not -1
  REQUIRE(has(error_with(changed(3, 0xFFFFFFFF)), "promises 18446744069414584324 tokens"));
  std::string wrong_width = changed(0, 20240801);
  put<uint32_t>(wrong_width, 4, 7);
  REQUIRE(has(error_with(wrong_width), "the header promises 4 tokens of 4 bytes, the file holds 8 bytes"));
}

// Catches: a glob without a match that opens nothing, a folder taken for a file.
TEST_CASE("a pattern that names no shard is refused with a cure") {
  const TemporaryFolder folder;
  const std::string none = error_of([&] { TokenShards shards(folder / "train_*.bin"); });
  REQUIRE(has(none, folder / "train_*.bin" + ": no file matches; make shards with `dither tokenize`"));
  REQUIRE(has(error_of([&] { TokenShards shards(folder / "no.bin"); }), "no.bin: no file matches"));
  REQUIRE(
      has(error_of([&] { TokenShards shards(folder.path()); }), ": not a file; data paths name shards, for example "));
}

// Catches: a memory map (SIGBUS ends the program), zeros or old bytes in the place of what is gone, a position in
// tokens called an offset.
TEST_CASE("a shard that becomes shorter while it is open is an error with its offset") {
  const TemporaryFolder folder;
  const std::string path = folder / "x.bin";
  write_file(path, shard_bytes(counting<uint16_t>(0, 50'000)));
  const TokenShards shards(path);
  std::vector<int32_t> out(40'000);
  shards.read(0, 10'000, 40'000, 65536, out.data());
  REQUIRE(out.back() == 49'999);
  std::filesystem::resize_file(path, 1024 + 2 * 30'000);
  const std::string shorter = path + ": ends at offset 61024 or before, but had 101024 bytes when it was opened";
  REQUIRE(has(error_of([&] { shards.read(0, 10'000, 40'000, 65536, out.data()); }), shorter));
  REQUIRE(has(error_of([&] { shards.count_of(0, 0, 50'000, 7); }), shorter));
  REQUIRE(has(error_of([&] { shards.check(65536); }), shorter));
  REQUIRE(has(error_of([&] { shards.fingerprint(); }), path + ": ends at offset"));
  shards.read(0, 0, 30'000, 65536, out.data());  // what is there can be read
  REQUIRE(out[29'999] == 29'999);
  REQUIRE_THROWS_AS(shards.read(0, 30'000, 1, 65536, out.data()), DataError);
}

// Catches: a descriptor for each shard, one that is closed while another thread reads from it, a file opened again
// under another's number.
TEST_CASE("a corpus of more shards than descriptors is read by several threads") {
  const TemporaryFolder folder;
  constexpr int kShards = 80;
  for (int i = 0; i < kShards; ++i) {
    write_file(folder / ("t_" + std::to_string(100 + i) + ".bin"), shard_bytes<uint16_t>({static_cast<uint16_t>(i)}));
  }
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
  rlimit few = before;
  few.rlim_cur = 48;
  REQUIRE(setrlimit(RLIMIT_NOFILE, &few) == 0);
  std::atomic<int> wrong{0};
  {
    const TokenShards shards(folder / "t_*.bin");
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([&shards, &wrong, t] {
        for (int i = 0; i < 10 * kShards; ++i) {
          const int shard = (i * 7 + t * 31) % kShards;
          int32_t token = -1;
          shards.read(shard, 0, 1, 1000, &token);
          if (token != shard) ++wrong;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    write_file(folder / "t_100.bin",
               shard_bytes<uint16_t>({5, 6}));  // closed long ago: it is not the same file any more
    int32_t token = 0;
    for (int i = 1; i < kShards; ++i) shards.read(i, 0, 1, 1000, &token);
    const std::string error = error_of([&] { shards.read(0, 0, 1, 1000, &token); });
    setrlimit(RLIMIT_NOFILE, &before);
    REQUIRE(has(error, "t_100.bin: was changed while it was in use: 1028 bytes now, 1026 when it was opened first"));
  }
  REQUIRE(wrong == 0);
}

// Catches: a pipe whose writer is waited for, "no file matches" that does not say where it was looked for, a pattern of
// another tool that simply matches nothing.
TEST_CASE("a path that cannot be meant is refused with what helps") {
  const TemporaryFolder folder;
  const auto error_with = [](const std::string& pattern) { return error_of([&] { TokenShards shards(pattern); }); };
  REQUIRE(mkfifo((folder / "pipe.bin").c_str(), 0600) == 0);
  REQUIRE(has(error_with(folder / "pipe.bin"), "pipe.bin: not a file; data paths name shards"));
  REQUIRE(has(error_with("no/such/train_*.bin"), "no/such/train_*.bin: no file matches (relative to " +
                                                     std::filesystem::current_path().string() +
                                                     "); there is no folder no/such/; make shards"));
  REQUIRE(has(error_with(folder / "{a,b}_*.bin"), "no file matches; {a,b} is not taken: give one pattern with * or ?"));
  REQUIRE(has(error_with(folder / "a.bin," + folder / "b.bin"), "a list of paths is not taken"));
  REQUIRE(has(error_with(folder / "[v1]_*.bin"), "[abc] stands for one of these characters, write [[] for a bracket"));
  REQUIRE(has(error_with("~/train_*.bin"), "~ and $NAME are not replaced"));
  REQUIRE(has(error_with(folder / "**/train.bin"), "** does not search folders within folders"));
}

}  // namespace dither
