// XXH3-64, the checksum of files and of texts that are compared: fast, the same on every machine, no defence against
// malice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace dither {

/// Of bytes that come piece by piece.
class Checksum {
 public:
  Checksum();
  ~Checksum();
  Checksum(const Checksum&) = delete;
  Checksum& operator=(const Checksum&) = delete;

  void add(const void* data, size_t bytes);
  /// Of all bytes so far.
  uint64_t value() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

uint64_t checksum_of(const void* data, size_t bytes);

/// 16 hexadecimal digits.
std::string checksum_text(uint64_t checksum);

}  // namespace dither
