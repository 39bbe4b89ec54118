#include "base/words.h"

#include <fmt/format.h>

#include <filesystem>
#include <new>
#include <system_error>

#include "base/error.h"
#include "base/free_memory.h"

namespace dither {

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
