// A checkpoint that is not what was written: refused with the file's name and the reason.
#include <algorithm>
#include <random>

#include "base/error.h"
#include "tests/catch.h"
#include "tests/checkpoint_faults/place.h"
#include "tests/checkpoint_faults/saved_state.h"

using namespace dither;
using namespace dither::test;
using Catch::Matchers::ContainsSubstring;
namespace fs = std::filesystem;

namespace {

/// A checkpoint of step 5, and where it is.
struct Saved {
  Saved() { state.save(disk(), folder, 5); }
  const Place place;
  const SavedState state{1};
  const std::string folder = place / "checkpoints", path = path_in(folder, 5);
  const std::string manifest = path + "/manifest.json", shard = path + "/rank-00001.safetensors";
};

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// Replaces one byte and puts it back when it goes.
class Flip {
 public:
  Flip(const std::string& path, int64_t position, char byte)
      : file_(path, std::ios::binary | std::ios::in | std::ios::out), position_(position) {
    file_.seekg(position);
    before_ = static_cast<char>(file_.get());
    put(static_cast<char>(before_ ^ byte));
  }
  ~Flip() { put(before_); }
  Flip(const Flip&) = delete;
  Flip& operator=(const Flip&) = delete;

 private:
  void put(char byte) {
    file_.seekp(position_);
    file_.put(byte);
    file_.flush();
  }
  std::fstream file_;
  const int64_t position_;
  char before_;
};

std::string refusal(const std::string& checkpoint) {
  try {
    verify(checkpoint);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

// Catches: bytes that no checksum covers: of the manifest its own trailer and the white space, a digit that passes in
// another case, a reader that stops at the first brace.
TEST_CASE("every flipped bit of a manifest is refused") {
  const Saved saved;
  const std::string text = read(saved.manifest);
  REQUIRE_NOTHROW(parse_manifest(text, saved.manifest));
  std::string accepted;
  for (size_t i = 0; i < text.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = text;
      damaged[i] = static_cast<char>(damaged[i] ^ (1 << bit));
      std::string message;
      try {
        parse_manifest(damaged, saved.manifest);
      } catch (const Error& e) {
        message = e.what();
      }
      if (message.rfind(saved.manifest + ": ", 0) == 0 && message.find("damaged") != std::string::npos) continue;
      accepted += "byte " + std::to_string(i) + ", bit " + std::to_string(bit) + ": " + message + "\n";
    }
  }
  REQUIRE(accepted.empty());
  const Flip flip(saved.manifest, static_cast<int64_t>(text.size()) / 2, 4);  // and from the file itself
  REQUIRE_THAT(refusal(saved.path), ContainsSubstring(saved.manifest + ": its XXH3 is "));
}

// Catches: a checksum over the data alone or the header alone, one that forgets the last bytes, a shard that is
// skipped.
TEST_CASE("a flipped bit anywhere in a shard is refused") {
  const Saved saved;
  const std::string file = saved.path + "/" + shard_name(GENERATE(0, 1)), bytes = read(file);
  int64_t header = 8;
  for (int i = 0; i < 8; ++i)
    header += static_cast<int64_t>(static_cast<unsigned char>(bytes[static_cast<size_t>(i)])) << (8 * i);
  const auto size = static_cast<int64_t>(bytes.size());
  REQUIRE(header < size);
  constexpr int64_t kHeaderStride = 13, kDataStride = 1999;  // primes: all bits and all remainders of 8 are met
  std::mt19937 random(3);
  std::vector<int64_t> positions{size - 1, size - 2, header - 1, header};
  for (int64_t i = 0; i < 8; ++i) positions.push_back(i);
  for (int64_t i = 8; i < header; i += kHeaderStride) positions.push_back(i);
  for (int64_t i = header; i < size; i += kDataStride) positions.push_back(i);
  for (const int64_t position : positions) {
    CAPTURE(file, position);
    const Flip flip(file, position, static_cast<char>(1 << random() % 8));
    REQUIRE_THAT(refusal(saved.path),
                 ContainsSubstring(file + ": its XXH3 is ") && ContainsSubstring(", manifest.json says "));
  }
  REQUIRE(refusal(saved.path).empty());
}

// Catches: a size that is not compared, a message that does not say what was found and what belongs there.
TEST_CASE("a shard that is shorter or longer is refused with both sizes") {
  const Saved saved;
  const auto size = static_cast<int64_t>(fs::file_size(saved.shard));
  const int64_t found = GENERATE_COPY(int64_t{0}, int64_t{1}, int64_t{7}, int64_t{100}, size / 2, size - 1, size + 1);
  fs::resize_file(saved.shard, static_cast<uintmax_t>(found));
  REQUIRE(refusal(saved.path) ==
          saved.shard + ": it has " + std::to_string(found) + " bytes, manifest.json says " + std::to_string(size));
}

// Catches: a manifest that is read in part, an empty one that counts as a checkpoint without shards.
TEST_CASE("a manifest that is shorter is refused at every length") {
  const Saved saved;
  const std::string text = read(saved.manifest);
  for (size_t length = 0; length < text.size(); ++length) {
    CAPTURE(length);
    REQUIRE_THROWS_WITH(parse_manifest(text.substr(0, length), saved.manifest),
                        ContainsSubstring(saved.manifest + ": ") && ContainsSubstring("damaged"));
  }
  fs::resize_file(saved.manifest, 0);
  REQUIRE(refusal(saved.path) == saved.manifest + ": it has 0 bytes: the file is damaged");
  fs::remove(saved.manifest);
  REQUIRE(refusal(saved.path) == saved.manifest + ": cannot be opened: No such file or directory");
}

// Catches: a list of shards taken from the folder instead of the manifest.
TEST_CASE("a missing shard is refused, and one that another has taken the name of") {
  const Saved saved;
  SECTION("missing") {
    fs::remove(saved.shard);
    REQUIRE(refusal(saved.path) == saved.shard + ": cannot be opened: No such file or directory");
  }
  SECTION("a folder in its place") {
    fs::remove(saved.shard);
    fs::create_directory(saved.shard);
    REQUIRE_THAT(refusal(saved.path), ContainsSubstring(saved.shard + ": "));
  }
  SECTION("exchanged") {
    const std::string first = saved.path + "/" + shard_name(0);
    fs::rename(saved.shard, saved.path + "/x");
    fs::rename(first, saved.shard);
    fs::rename(saved.path + "/x", first);
    REQUIRE_THAT(refusal(saved.path), ContainsSubstring(first + ": it"));
  }
}

// Catches: shards and a manifest that do not belong together: each is whole by itself.
TEST_CASE("another checkpoint's manifest is refused") {
  const Saved saved, other;
  SECTION("of another step") {
    saved.state.save(disk(), saved.folder, 6);
    fs::copy_file(path_in(saved.folder, 6) + "/manifest.json", saved.manifest, fs::copy_options::overwrite_existing);
    REQUIRE_THAT(refusal(saved.path), ContainsSubstring(saved.manifest + ": ") && ContainsSubstring("step 6"));
  }
  SECTION("of another run's same step") {
    const SavedState stranger(2);
    stranger.save(disk(), other.folder, 5);  // replaces
    fs::copy_file(other.manifest, saved.manifest, fs::copy_options::overwrite_existing);
    REQUIRE_THAT(refusal(saved.path), ContainsSubstring(saved.path + "/rank-00000.safetensors: its XXH3 is "));
  }
}

// Catches: a whole checkpoint of another model that is loaded in part.
TEST_CASE("a checkpoint of another model is refused before anything is set") {
  const Saved saved;
  const int layers = GENERATE(1, 2);
  SavedState other(7, 3 - layers);
  const std::vector<std::byte> before = other.bytes();
  const std::string path = path_in(saved.folder, 9);
  SavedState(8, layers).save(disk(), saved.folder, 9);
  verify(path);
  REQUIRE_THROWS_WITH(other.load(path), ContainsSubstring(path) && ContainsSubstring("another model's checkpoint"));
  REQUIRE(other.bytes() == before);
}

// Catches: a step that is taken from the name, a partial folder that counts because somebody renamed it.
TEST_CASE("a renamed folder is refused, and other names are not listed") {
  const Saved saved;
  const std::string renamed = path_in(saved.folder, 50);
  fs::rename(saved.path, renamed);
  REQUIRE(steps_in(saved.folder) == std::vector<int64_t>{50});
  REQUIRE_THAT(refusal(renamed), ContainsSubstring(renamed) && ContainsSubstring("step 5"));
  for (const char* name : {"step-00000050.partial", "step-00000050.removed", "step-50", "step-00000050 ",
                           "step--0000050", "step-000000050", "Step-00000050", "copy of step-00000050"}) {
    const std::string other = saved.folder + "/" + name;
    CAPTURE(other);
    fs::rename(renamed, other);
    REQUIRE(steps_in(saved.folder).empty());
    fs::rename(other, renamed);
  }
}
