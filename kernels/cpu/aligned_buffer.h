// Memory that is filled again and again: it grows when a larger size is asked for and never shrinks.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace dither {

class AlignedBuffer {
 public:
  /// At least `bytes`; what it held is lost when it grows.
  void reserve(int64_t bytes) {
    if (bytes <= bytes_) return;
    memory_.reset();
    memory_.reset(static_cast<char*>(operator new(static_cast<size_t>(bytes), kAlignment)));
    bytes_ = bytes;
  }
  char* data() const { return memory_.get(); }
  int64_t bytes() const { return bytes_; }

 private:
  static constexpr std::align_val_t kAlignment{
      256};  // whole cache lines: AMX loads that straddle two take twice as long
  struct Release {
    void operator()(char* memory) const { operator delete(memory, kAlignment); }
  };
  std::unique_ptr<char, Release> memory_;
  int64_t bytes_ = 0;
};

}  // namespace dither
