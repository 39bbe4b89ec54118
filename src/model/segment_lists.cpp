#include "src/model/segment_lists.h"

namespace dither {

int64_t SegmentLists::bytes(const std::vector<std::vector<Segment>>& lists) {
  int64_t segments = 0;
  for (const std::vector<Segment>& list : lists) segments += static_cast<int64_t>(list.size());
  return segments * static_cast<int64_t>(sizeof(Segment));
}

SegmentLists::SegmentLists(const std::vector<std::vector<Segment>>& lists, Backend& backend, Stream stream)
    : backend_(backend), memory_(static_cast<Segment*>(backend.allocate(bytes(lists)))) {
  Segment* next = memory_;
  for (const std::vector<Segment>& list : lists) {
    const auto count = static_cast<int64_t>(list.size());
    check_segments("the parameters", list.data(), count);
    if (count > 0) backend.copy_from_host(next, list.data(), count * static_cast<int64_t>(sizeof(Segment)), stream);
    lists_.push_back({next, count});
    next += count;
  }
  backend.synchronize(stream);
}

SegmentLists::~SegmentLists() { backend_.free(memory_); }

}  // namespace dither
