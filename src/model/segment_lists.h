// Lists of segments in backend memory, where the operations over flat arrays read them.
#pragma once

#include <vector>

#include "kernels/backend.h"

namespace dither {

class SegmentLists {
 public:
  struct List {
    const Segment* data;
    int64_t count;
  };
  /// Throws Error for a segment that update.h does not allow, or when memory is short.
  SegmentLists(const std::vector<std::vector<Segment>>& lists, Backend& backend, Stream stream);
  ~SegmentLists();
  SegmentLists(const SegmentLists&) = delete;
  SegmentLists& operator=(const SegmentLists&) = delete;

  /// What the constructor allocates.
  static int64_t bytes(const std::vector<std::vector<Segment>>& lists);

  const List& operator[](size_t i) const { return lists_[i]; }

 private:
  Backend& backend_;
  Segment* memory_;
  std::vector<List> lists_;
};

}  // namespace dither
