// What the data tests share: a folder that goes away, and shards written byte by byte, not by the code under test.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "base/error.h"

namespace dither::test {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "dither-data-XXXXXX").string();
    DITHER_ASSERT(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

inline void write_file(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

inline std::string read_whole(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

template <typename Word>
void put(std::string& bytes, size_t at, Word word) {
  if (bytes.size() < at + sizeof word) bytes.resize(at + sizeof word);
  std::memcpy(bytes.data() + at, &word, sizeof word);
}

/// A whole shard as docs/data-format.md says: Token is uint16_t or uint32_t.
template <typename Token>
std::string shard_bytes(const std::vector<Token>& tokens) {
  std::string bytes(1024, '\0');
  put<uint32_t>(bytes, 0, sizeof(Token) == 2 ? 20240520 : 20240801);
  put<uint32_t>(bytes, 4, sizeof(Token) == 2 ? 1 : 7);
  put<uint64_t>(bytes, 8, tokens.size());
  for (const Token token : tokens) put(bytes, bytes.size(), token);
  return bytes;
}

/// Tokens first, first + 1, ...: a reader that is one off shows at once.
template <typename Token>
std::vector<Token> counting(Token first, size_t count) {
  std::vector<Token> tokens(count);
  for (size_t i = 0; i < count; ++i) tokens[i] = static_cast<Token>(first + i);
  return tokens;
}

/// The message of the Error that `action` throws; "" if it throws none.
template <typename Action>
std::string error_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

inline bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace dither::test
