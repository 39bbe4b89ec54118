#include "base/words.h"

#include <fmt/format.h>

#include <cstdint>
#include <filesystem>
#include <new>
#include <system_error>

#include "base/error.h"
#include "base/free_memory.h"

namespace dither {

namespace {

/// Bytes of the UTF-8 character that `text` begins with; 0: it begins with none.
size_t character_bytes(std::string_view text) {
  const auto byte = [&text](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const size_t bytes = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < bytes) return 0;
  uint32_t value = first & (0xff >> (bytes + 1));
  for (size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    value = value << 6 | (byte(i) & 0x3f);
  }
  constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = value >= 0xd800 && value <= 0xdfff;
  return value < kLeast[bytes] || value > 0x10ffff || surrogate ? 0 : bytes;
}

/// C0 but line break and tab, DEL, and C1 (U+0080 to U+009F: two bytes).
bool is_control(std::string_view character) {
  const auto first = static_cast<unsigned char>(character[0]);
  if (character.size() == 1) return (first < 0x20 && first != '\n' && first != '\t') || first == 0x7f;
  return first == 0xc2 && static_cast<unsigned char>(character[1]) < 0xa0;
}

}  // namespace

std::string visible(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    const size_t bytes = character_bytes(text);
    const std::string_view character = text.substr(0, bytes == 0 ? 1 : bytes);
    if (bytes == 0 || is_control(character)) {
      for (const char c : character) result += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      result += character;
    }
    text.remove_prefix(character.size());
  }
  return result;
}

std::string words_of(const std::exception& exception) {
  if (const auto* error = dynamic_cast<const std::filesystem::filesystem_error*>(&exception)) {
    const std::string other = error->path2().empty() ? "" : " and " + error->path2().string();
    return fmt::format("{}{}: {}", error->path1().string(), other, error->code().message());
  }
  if (const auto* error = dynamic_cast<const std::system_error*>(&exception)) {
    if (error->code() == std::errc::resource_unavailable_try_again) {
      return "the system gives no further thread: " + refusal_causes() +
             "\n       cures: a smaller parallel.threads, or a larger limit";
    }
    return "a file or the system refused: " + error->code().message();
  }
  if (dynamic_cast<const std::bad_alloc*>(&exception) != nullptr) {
    return "out of memory: " + refusal_causes() +
           "\n       cures: a smaller batch.micro_batch_size, sequence length or model, or a larger limit";
  }
  return exception.what();
}

}  // namespace dither
