// Safetensors: what is written is read back, the bytes are those of the format, and no damaged file is believed.
#include "src/checkpoint/safetensors.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/error.h"
#include "tests/catch.h"

using namespace dither;
namespace fs = std::filesystem;

namespace {

/// A fresh folder, removed with all it holds.
struct Folder {
  fs::path path;
  Folder() {
    std::string pattern = (fs::temp_directory_path() / "dither-safetensors-XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    path = pattern;
  }
  ~Folder() { fs::remove_all(path); }
  std::string file(const std::string& name) const { return (path / name).string(); }
};

const std::byte* as_bytes(const void* data) { return static_cast<const std::byte*>(data); }

std::string read_all(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

/// A file image: header with its true length, then `data_bytes` bytes 0, 1, 2, ...
std::string image(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string result(reinterpret_cast<const char*>(&length), sizeof(length));
  result += header;
  for (size_t i = 0; i < data_bytes; ++i) result += static_cast<char>(i);
  return result;
}

/// Parses a copy that fills its allocation, so that the address sanitizer sees a read beyond the end.
/// Returns the error's text, or "" if the image was accepted; an accepted tensor must lie inside the image.
std::string verdict(const std::string& bytes) {
  const std::vector<std::byte> copy(as_bytes(bytes.data()), as_bytes(bytes.data()) + bytes.size());
  try {
    const SafetensorsContents contents = parse_safetensors(copy.data(), static_cast<int64_t>(copy.size()), "some.file");
    for (const SafetensorsTensor& tensor : contents.tensors) {
      REQUIRE(tensor.data >= copy.data() + 8);
      REQUIRE(tensor.bytes() <= copy.data() + copy.size() - tensor.data);
    }
    return "";
  } catch (const Error& error) {
    const std::string text = error.what();
    REQUIRE(text.rfind("some.file: ", 0) == 0);
    return text;
  }
}

const std::string kSmallHeader = R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                                 R"("b":{"dtype":"U8","shape":[],"data_offsets":[24,25]}})";
constexpr size_t kSmallData = 25;

}  // namespace

// Catches: a padded or unpadded header of the wrong length, data in another order than the offsets say, metadata lost,
// a scalar written as [1], an unaligned tensor, text not escaped.
TEST_CASE("what is written is read back, every type, shape and name") {
  const Folder folder;
  const std::string path = folder.file("all.safetensors");
  std::vector<uint8_t> pool(6 * 8);
  for (size_t i = 0; i < pool.size(); ++i) pool[i] = static_cast<uint8_t>(i * 37 + 1);
  std::vector<SafetensorsTensor> tensors;
  for (int type = static_cast<int>(SafetensorsType::boolean); type >= 0; --type) {  // smallest elements first
    const auto t = static_cast<SafetensorsType>(type);
    tensors.push_back({std::string("odd ") + name_of(t), t, {3, 1}, as_bytes(pool.data() + type)});
  }
  tensors.push_back({"a \"quoted\"\nname, \xc3\xa9", SafetensorsType::bf16, {2, 3}, as_bytes(pool.data())});
  tensors.push_back({"scalar", SafetensorsType::f64, {}, as_bytes(pool.data())});
  tensors.push_back({"nothing", SafetensorsType::f32, {4, 0}, nullptr});
  const std::map<std::string, std::string> metadata = {{"config", "{\"layers\": 2}\n"}, {"seed", "1"}, {"", "\t"}};
  write_safetensors(path, tensors, metadata);

  const SafetensorsFile file(path);
  REQUIRE(file.metadata() == metadata);
  REQUIRE(file.tensors().size() == tensors.size());
  for (const SafetensorsTensor& wrote : tensors) {
    const SafetensorsTensor& read = file.at(wrote.name);
    INFO(wrote.name);
    REQUIRE(read.type == wrote.type);
    REQUIRE(read.shape == wrote.shape);
    REQUIRE(read.bytes() == wrote.bytes());
    REQUIRE(reinterpret_cast<uintptr_t>(read.data) % static_cast<uintptr_t>(size_of(read.type)) == 0);
    REQUIRE(std::equal(read.data, read.data + read.bytes(), wrote.data));
  }
  REQUIRE(file.find("absent") == nullptr);
  REQUIRE_THROWS_WITH(file.at("absent"),
                      path + ": has no tensor \"absent\" among its " + std::to_string(tensors.size()));

  write_safetensors(folder.file("again"), tensors, metadata);
  REQUIRE(read_all(folder.file("again")) == read_all(path));
  REQUIRE(std::distance(fs::directory_iterator(folder.path), fs::directory_iterator()) == 2);  // no .partial is left
}

// Catches: big-endian length, a length that counts itself or not the padding, data behind a gap, order by name.
TEST_CASE("the bytes written are those of the format") {
  const Folder folder;
  const uint8_t small[2] = {7, 8};
  const float wide[2] = {1.0f, -2.0f};
  write_safetensors(
      folder.file("x"),
      {{"s", SafetensorsType::u8, {2}, as_bytes(small)}, {"w", SafetensorsType::f32, {1, 2}, as_bytes(wide)}},
      {{"k", "v"}});
  const std::string header = R"({"__metadata__":{"k":"v"},"w":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},)"
                             R"("s":{"dtype":"U8","shape":[2],"data_offsets":[8,10]}})";
  const std::string padded = header + std::string(7 - (header.size() + 7) % 8, ' ');
  const std::string expected = std::string(1, static_cast<char>(padded.size())) + std::string(7, '\0') + padded +
                               std::string("\x00\x00\x80\x3f\x00\x00\x00\xc0\x07\x08", 10);
  REQUIRE(read_all(folder.file("x")) == expected);

  write_safetensors(folder.file("empty"), {}, {});
  REQUIRE(read_all(folder.file("empty")) == std::string("\x08\0\0\0\0\0\0\0{}      ", 16));
  REQUIRE(SafetensorsFile(folder.file("empty")).tensors().empty());
}

// Catches: tensors taken in the order of their names in the header, alignment taken for granted, empty tensors that
// count as an overlap.
TEST_CASE("a foreign file may order and align as it likes") {
  const std::string bytes = image(
      R"({"z":{"shape":[1],"dtype":"F32","data_offsets":[1,5]},"e":{"dtype":"I64","shape":[0],"data_offsets":[1,1]},)"
      R"( "a":{"data_offsets":[0,1],"dtype":"BOOL","shape":[1,1]}}   )",
      5);
  const SafetensorsContents contents =
      parse_safetensors(as_bytes(bytes.data()), static_cast<int64_t>(bytes.size()), "some.file");
  REQUIRE(contents.tensors.size() == 3);
  REQUIRE(contents.tensors[0].name == "a");
  REQUIRE(contents.tensors[1].name == "e");
  REQUIRE(contents.tensors[2].name == "z");
  REQUIRE(contents.tensors[2].data == as_bytes(bytes.data()) + bytes.size() - 4);
  REQUIRE(contents.metadata.empty());
}

// Catches: any length that is read before it is known to be there, and a reader that is content with missing or surplus
// data.
TEST_CASE("a file cut at any length, or longer by a byte, is refused") {
  const std::string whole = image(kSmallHeader, kSmallData);
  REQUIRE(verdict(whole) == "");
  for (size_t length = 0; length < whole.size(); ++length) REQUIRE(verdict(whole.substr(0, length)) != "");
  REQUIRE(verdict(whole + '\0') != "");
}

// Catches: whatever crashes, hangs or points outside the file (verdict() looks) when one byte is wrong.
TEST_CASE("any one byte before the data may have any value without harm") {
  const std::string whole = image(kSmallHeader, kSmallData);
  int refused = 0, tried = 0;
  for (size_t place = 0; place < 8 + kSmallHeader.size(); ++place) {
    for (int value = 0; value < 256; ++value, ++tried) {
      std::string damaged = whole;
      damaged[place] = static_cast<char>(value);
      refused += verdict(damaged) != "";
    }
  }
  CAPTURE(refused, tried);
  REQUIRE(refused > tried * 9 / 10);  // free are the letters of the two names, of the metadata, and few besides
}

// Catches: each check of the reader left out; and messages that do not say what was found.
TEST_CASE("each kind of damage is refused with its reason") {
  struct Case {
    std::string header;
    size_t data_bytes;
    std::string reason;
  };
  const auto tensor = [](const std::string& rest) { return "{\"t\":{" + rest + "}}"; };
  const std::string ok = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  const std::string deep(1000000, '[');
  const Case cases[] = {
      {"", 0, "does not begin with {"},
      {"[]", 0, "does not begin with {"},
      {" {}", 0, "does not begin with {"},
      {"\xef\xbb\xbf{}", 0, "does not begin with {"},
      {std::string("{}\0x", 4), 0, "holds a zero byte"},
      {"{} x", 0, "not valid JSON"},
      {"{\"t\":", 0, "not valid JSON at its byte"},
      {"{\"\xff\":{}}", 0, "not valid JSON"},
      {"{" + ok + "," + ok + "}", 4, "the header has \"a\" twice"},
      {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "the header has \"__metadata__\" twice"},
      {"{\"__metadata__\":{\"k\":\"1\",\"k\":\"1\"}}", 0, "the metadata has \"k\" twice"},
      {"{\"__metadata__\":{\"k\":1}}", 0, "the metadata has a number at \"k\", needs a string"},
      {"{\"__metadata__\":{\"k\":{}}}", 0, "the metadata has an object at \"k\", needs a string"},
      {"{\"__metadata__\":[]}", 0, "the metadata has a list at \"__metadata__\", needs an object"},
      {"{\"t\":null}", 0, "tensor \"t\" has null at \"t\", needs an object"},
      {"{\"t\":" + deep, 0, "tensor \"t\" has a list at \"t\", needs an object"},
      {tensor("\"shape\":" + deep), 0, "tensor \"t\" has a list at \"shape\", needs an integer"},
      {tensor(R"("dtype":"U8","shape":[4])"), 4, "tensor \"t\" has no data_offsets"},
      {tensor(R"("dtype":"U8","data_offsets":[0,4])"), 4, "tensor \"t\" has no shape"},
      {tensor(R"("shape":[4],"data_offsets":[0,4])"), 4, "tensor \"t\" has no dtype"},
      {tensor(R"("dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4])"), 4, "tensor \"t\" has dtype twice"},
      {tensor(R"("size":4)"), 4, "tensor \"t\" has the key \"size\", allowed are dtype, shape, data_offsets"},
      {tensor(R"("dtype":"U7","shape":[4],"data_offsets":[0,4])"), 4, "has the dtype \"U7\"\n       allowed: F64, I64"},
      {tensor(R"("dtype":8)"), 4, "has a number at \"dtype\", needs a string"},
      {tensor(R"("shape":4)"), 4, "has a number at \"shape\", needs a list"},
      {tensor(R"("shape":[-4])"), 4, "has the number -4 at \"shape\", needs an integer from 0"},
      {tensor(R"("shape":[4.0])"), 4, "has the number \"4.0\" at \"shape\", needs an integer from 0"},
      {tensor(R"("shape":[9223372036854775808])"), 4, "has the number 9223372036854775808 at \"shape\""},
      {tensor(R"("shape":[18446744073709551616])"), 4, "has the number \"18446744073709551616\" at \"shape\""},
      {tensor(R"("dtype":"U8","shape":[4],"data_offsets":[0,4,4])"), 4, "data_offsets [0,4,4], needs [begin,end]"},
      {tensor(R"("dtype":"U8","shape":[4],"data_offsets":[4])"), 4, "data_offsets [4], needs [begin,end]"},
      {tensor(R"("dtype":"U8","shape":[4],"data_offsets":[4,0])"), 4, "data_offsets [4,0], needs [begin,end]"},
      {tensor(R"("dtype":"F32","shape":[4],"data_offsets":[0,4])"), 4,
       "data_offsets [0,4], 4 bytes; the shape [4] of F32 needs 16"},
      {tensor(R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])"), 0,
       "the shape [4294967296,4294967296] of U8, more than 2^63-1 bytes"},
      {tensor(R"("dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0])"), 0, "more than 2^63-1 bytes"},
      {tensor(R"("dtype":"U8","shape":[9223372036854775807],"data_offsets":[0,9223372036854775807])"), 4,
       "the tensors need 9223372036854775807 bytes of data, the file has 4"},
      {tensor(R"("dtype":"U8","shape":[4],"data_offsets":[1,5])"), 5, "\"t\" begins at data byte 1, needs 0"},
      {"{" + ok + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}})", 7,
       "\"b\" begins at data byte 3, needs 4"},
      {"{" + ok + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4,
       "\"b\" begins at data byte 0, needs 4"},
      {"{" + ok + R"(,"b":{"dtype":"U8","shape":[4],"data_offsets":[5,9]}})", 9,
       "\"b\" begins at data byte 5, needs 4"},
      {"{" + ok + "}", 3, "the tensors need 4 bytes of data, the file has 3"},
      {"{" + ok + "}", 5, "the tensors need 4 bytes of data, the file has 5"},
      {"{}", 1, "the tensors need 0 bytes of data, the file has 1"},
      {"{\"" + std::string(1000, 'n') + "\\n\":1}", 0, "tensor \"" + std::string(80, 'n') + "...\" has a number"},
      {"{\"\\u0007\":1}", 0, "tensor \"?\" has a number"},
  };
  for (const Case& c : cases) {
    INFO(c.header.substr(0, 200));
    const std::string text = verdict(image(c.header, c.data_bytes));
    CAPTURE(text, c.reason);
    REQUIRE(text.find(c.reason) != std::string::npos);
  }
}

// Catches: a length added to 8 before it is compared (it wraps), and an allocation of whatever the length says.
TEST_CASE("a header length beyond the file or the limit is refused") {
  std::string bytes = image(kSmallHeader, kSmallData);
  for (const uint64_t length : {bytes.size() - 7, size_t{1} << 31, ~size_t{0}, ~size_t{0} - 7, size_t{1} << 63}) {
    std::memcpy(bytes.data(), &length, sizeof(length));
    const std::string reason = "the header's length is " + std::to_string(length) + ", at most " +
                               std::to_string(bytes.size() - 8) + " is allowed";
    const std::string text = verdict(bytes);
    CAPTURE(text, reason);
    REQUIRE(text.find(reason) != std::string::npos);
  }
}

TEST_CASE("a file that is not there or not a file is refused by name") {
  const Folder folder;
  REQUIRE_THROWS_WITH(SafetensorsFile(folder.file("absent")),
                      folder.file("absent") + ": cannot be opened: No such file or directory");
  REQUIRE_THROWS_WITH(SafetensorsFile(folder.path.string()),
                      folder.path.string() + ": not a file, needs a safetensors file");
  std::ofstream(folder.file("nothing")).close();
  REQUIRE_THROWS_WITH(SafetensorsFile(folder.file("nothing")),
                      Catch::Matchers::StartsWith(folder.file("nothing") + ": the file has 0 bytes, needs at least 8"));
}

// Catches: writing over the old file in place, a short write taken for success, a .partial left behind.
TEST_CASE("a file that cannot be written whole leaves the old one as it was") {
  const Folder folder;
  const std::string path = folder.file("weights");
  const std::vector<float> values(1000, 1.5f);
  const std::vector<SafetensorsTensor> tensors = {{"w", SafetensorsType::f32, {1000}, as_bytes(values.data())}};
  write_safetensors(path, tensors, {{"version", "old"}});
  const std::string old = read_all(path);

  rlimit limit = {};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &limit) == 0);
  const auto previous = std::signal(SIGXFSZ, SIG_IGN);  // then a write over the limit fails instead of killing
  const rlimit tight = {2000, limit.rlim_max};          // the header fits, the data is written in part
  REQUIRE(setrlimit(RLIMIT_FSIZE, &tight) == 0);
  std::string message;
  try {
    write_safetensors(path, tensors, {{"version", "new"}});
  } catch (const Error& error) {
    message = error.what();
  }
  setrlimit(RLIMIT_FSIZE, &limit);
  std::signal(SIGXFSZ, previous);

  REQUIRE(message == path + ".partial: cannot be written: File too large");
  REQUIRE(read_all(path) == old);
  REQUIRE_FALSE(fs::exists(path + ".partial"));
  REQUIRE_THROWS_WITH(write_safetensors(folder.file("no/such"), tensors, {}),
                      folder.file("no/such") + ".partial: cannot be created: No such file or directory");
  REQUIRE_THROWS_WITH(write_safetensors(path, tensors, {{"k", "\xff"}}),
                      path + ": cannot be written: \"\xff\" is not UTF-8");
  REQUIRE(read_all(path) == old);
}
