// Text files to byte-token shards: see prepare.h.
#include "src/data/prepare.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string_view>

#include "base/error.h"
#include "src/data/text_kind.h"
#include "src/data/token_shards.h"
#include "src/data/tokenizer.h"

namespace dither {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kBlockBytes = 1 << 20;         // what is read at once: large enough that calls do not count
constexpr int64_t kLeastTokens = (1 << 20) + 1;  // of a shard behind others: the longest window that a config allows
constexpr uint16_t kEndOfText = 256;             // byte_tokenizer().end_of_text(), asserted below
constexpr const char* kPartial = ".partial";     // no "train_*.bin" glob matches a file that is not complete

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

[[noreturn]] void fail(const std::string& path, const char* what, const char* cure = "") {
  throw Error(fmt::format("{}: could not {} the file: {}{}", path, what, std::strerror(errno), cure));
}

/// Files that appear together: written under partial names, renamed by commit(); without it, none of them stays.
class OutputFiles {
 public:
  OutputFiles() = default;
  OutputFiles(const OutputFiles&) = delete;
  OutputFiles& operator=(const OutputFiles&) = delete;
  ~OutputFiles() {
    if (committed_) return;
    std::error_code ignored;  // already on the way out of an error
    for (const std::string& path : paths_) {
      fs::remove(path + kPartial, ignored);
      fs::remove(path, ignored);  // ours, if a later rename failed: the folder held no such file before
    }
  }

  File create(const std::string& path) {
    paths_.push_back(path);
    File file(std::fopen((path + kPartial).c_str(), "wb"));
    if (!file) fail(path, "create");
    return file;
  }

  /// Takes a file back.
  void discard(const std::string& path) {
    std::error_code ignored;  // a file that stays has a name that no glob matches
    fs::remove(path + kPartial, ignored);
    std::erase(paths_, path);
  }

  /// Renames in the order of creation.
  void commit() {
    for (const std::string& path : paths_) {
      if (std::rename((path + kPartial).c_str(), path.c_str()) != 0) fail(path, "rename");
    }
    committed_ = true;
  }

 private:
  std::vector<std::string> paths_;
  bool committed_ = false;
};

void write(std::FILE* file, const void* bytes, size_t count, const std::string& path) {
  if (std::fwrite(bytes, 1, count, file) != count) fail(path, "write", "; is the disk full?");
}

void finish(File& file, const std::string& path) {
  if (std::fflush(file.get()) != 0 || fsync(fileno(file.get())) != 0) fail(path, "write", "; is the disk full?");
  file.reset();
}

/// The tokens of one split, cut into shards of equal size. A remainder that is shorter than kLeastTokens goes to the
/// end of the shard before it.
class ShardWriter {
 public:
  /// `prefix` is what a shard's path has before its number.
  ShardWriter(OutputFiles& outputs, std::string prefix, int64_t shard_tokens)
      : outputs_(outputs), prefix_(std::move(prefix)), shard_tokens_(shard_tokens) {}

  void append(std::string_view bytes) {
    while (!bytes.empty()) {
      if (!file_) open();
      const size_t count = std::min<size_t>(bytes.size(), shard_tokens_ - in_shard_);
      widened_.assign(bytes.begin(), bytes.begin() + count);
      for (uint16_t& token : widened_) token &= 0xFF;  // char may be signed
      append_tokens();
      bytes.remove_prefix(count);
    }
  }

  void append_end_of_text() {
    if (!file_) open();
    widened_ = {kEndOfText};
    append_tokens();
  }

  /// After the last token.
  void end() {
    if (file_ && shards_ > 1 && in_shard_ < kLeastTokens) return join_to_previous();
    close();
  }

  int64_t tokens() const { return tokens_; }
  int64_t shards() const { return shards_; }

 private:
  /// Completes the open shard; the count in its header is known only now.
  void close() {
    if (!file_) return;
    const uint32_t words[4] = {kShardMagic16, kShardVersion16, static_cast<uint32_t>(in_shard_),
                               static_cast<uint32_t>(in_shard_ >> 32)};
    if (std::fseek(file_.get(), 0, SEEK_SET) != 0) fail(path_, "rewind");
    write(file_.get(), words, sizeof words, path_);
    finish(file_, path_);
  }

  void join_to_previous() {
    finish(file_, path_);
    std::vector<uint16_t> rest(static_cast<size_t>(in_shard_));
    file_.reset(std::fopen((path_ + kPartial).c_str(), "rb"));
    if (!file_ || std::fseek(file_.get(), kShardHeaderBytes, SEEK_SET) != 0 ||
        std::fread(rest.data(), sizeof(uint16_t), rest.size(), file_.get()) != rest.size()) {
      fail(path_, "read back");
    }
    outputs_.discard(path_);
    path_ = path_of(--shards_ - 1);
    file_.reset(std::fopen((path_ + kPartial).c_str(), "r+b"));
    if (!file_ || std::fseek(file_.get(), 0, SEEK_END) != 0) fail(path_, "open again");
    write(file_.get(), rest.data(), rest.size() * sizeof(uint16_t), path_);
    in_shard_ += shard_tokens_;
    close();
  }

  std::string path_of(int64_t shard) const { return fmt::format("{}{:06d}.bin", prefix_, shard); }

  void open() {
    path_ = path_of(shards_++);
    file_ = outputs_.create(path_);
    in_shard_ = 0;
    const std::string header(kShardHeaderBytes, '\0');
    write(file_.get(), header.data(), header.size(), path_);
  }

  void append_tokens() {
    write(file_.get(), widened_.data(), widened_.size() * sizeof(uint16_t), path_);
    in_shard_ += static_cast<int64_t>(widened_.size());
    tokens_ += static_cast<int64_t>(widened_.size());
    if (in_shard_ == shard_tokens_) close();
  }

  OutputFiles& outputs_;
  const std::string prefix_;
  const int64_t shard_tokens_;
  File file_;
  std::string path_;
  std::vector<uint16_t> widened_;
  int64_t in_shard_ = 0, tokens_ = 0, shards_ = 0;
};

/// Splits one document of `size` bytes: those before `cut`, and on to the end of the line they are in, to `train`; the
/// rest, if there is one, to `validation`; each part followed by end of text.
void split_document(const std::string& path, int64_t size, int64_t cut, ShardWriter& train, ShardWriter& validation) {
  const File file(std::fopen(path.c_str(), "rb"));
  if (!file) fail(path, "open");
  std::string block(kBlockBytes, '\0');
  int64_t at = 0;  // where the block begins in the file
  ShardWriter* part = &train;
  size_t count = 0;
  while ((count = std::fread(block.data(), 1, block.size(), file.get())) > 0) {
    std::string_view bytes(block.data(), count);
    if (at == 0) check_begins_as_text(path, bytes);
    check_has_no_zero(path, bytes, at);
    const int64_t end = at + static_cast<int64_t>(count);
    if (at == 0 && bytes.starts_with(kUtf8ByteOrderMark)) {  // says how the text is encoded, and is none of it
      bytes.remove_prefix(kUtf8ByteOrderMark.size());
      at = static_cast<int64_t>(kUtf8ByteOrderMark.size());
    }
    if (part == &train && end >= cut) {
      // The newline may be the last byte before the cut, which then needs no moving.
      const size_t newline = bytes.find('\n', static_cast<size_t>(std::max<int64_t>(cut - 1 - at, 0)));
      if (newline != std::string_view::npos && at + static_cast<int64_t>(newline) + 1 < size) {
        train.append(bytes.substr(0, newline + 1));
        train.append_end_of_text();
        bytes.remove_prefix(newline + 1);
        part = &validation;
      }
    }
    part->append(bytes);
    at = end;
  }
  if (std::ferror(file.get())) fail(path, "read");
  part->append_end_of_text();
}

int64_t size_of_text(const std::string& path) {
  std::error_code error;
  const auto status = fs::status(path, error);
  if (!fs::exists(status)) throw Error(fmt::format("{}: no such text file", path));
  if (!fs::is_regular_file(status)) throw Error(fmt::format("{}: not a file; name text files one by one", path));
  const auto bytes = static_cast<int64_t>(fs::file_size(path, error));
  if (error) throw Error(fmt::format("{}: could not measure the text file: {}", path, error.message()));
  if (bytes == 0) throw Error(fmt::format("{}: the text file is empty; leave it out", path));
  return bytes;
}

void refuse_old_shards(const std::string& folder) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    const bool shard = (name.starts_with("train_") || name.starts_with("val_")) && name.ends_with(".bin");
    if (!shard && name != "tokenizer.bin") continue;
    throw Error(
        fmt::format("{}: is there already, and shards of two corpora must not mix; remove train_*.bin, val_*.bin "
                    "and tokenizer.bin from this folder or name another one",
                    entry.path().string()));
  }
  if (error) throw Error(fmt::format("{}: could not list the folder: {}", folder, error.message()));
}

}  // namespace

PreparedCorpus prepare_byte_corpus(const std::vector<std::string>& text_files, const std::string& output_folder,
                                   double validation_fraction, int64_t shard_tokens) {
  if (text_files.empty()) throw Error("no text file to tokenize; name at least one");
  if (!(validation_fraction >= 0 && validation_fraction < 1)) {
    throw Error(fmt::format("validation fraction is {}, needs 0 or more and less than 1", validation_fraction));
  }
  if (shard_tokens < 1) throw Error(fmt::format("tokens per shard are {}, need 1 or more", shard_tokens));
  std::vector<int64_t> sizes;
  sizes.reserve(text_files.size());
  for (const std::string& path : text_files) sizes.push_back(size_of_text(path));
  const Tokenizer tokenizer = byte_tokenizer();
  DITHER_ASSERT(tokenizer.end_of_text() == kEndOfText);

  std::error_code error;
  fs::create_directories(output_folder, error);
  if (error) throw Error(fmt::format("{}: could not create the folder: {}", output_folder, error.message()));
  refuse_old_shards(output_folder);

  OutputFiles outputs;
  ShardWriter train(outputs, (fs::path(output_folder) / "train_").string(), shard_tokens);
  ShardWriter validation(outputs, (fs::path(output_folder) / "val_").string(), shard_tokens);
  for (size_t i = 0; i < text_files.size(); ++i) {
    const auto held_out = static_cast<int64_t>(validation_fraction * static_cast<double>(sizes[i]));
    split_document(text_files[i], sizes[i], sizes[i] - held_out, train, validation);
  }
  train.end();
  validation.end();
  if (validation_fraction > 0 && validation.tokens() == 0) {
    throw Error(
        fmt::format("validation fraction {} gives validation not one line of the text ({}); raise it, add text, or "
                    "set it to 0 for a corpus without validation",
                    validation_fraction, text_files.front()));
  }
  const std::string strings = tokenizer.serialize();
  const std::string path = (fs::path(output_folder) / "tokenizer.bin").string();
  File file = outputs.create(path);
  write(file.get(), strings.data(), strings.size(), path);
  finish(file, path);
  outputs.commit();
  return {train.tokens(), validation.tokens(), train.shards(), validation.shards()};
}

}  // namespace dither
