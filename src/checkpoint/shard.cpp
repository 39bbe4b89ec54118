#include "src/checkpoint/shard.h"

#include <algorithm>

#include "base/error.h"
#include "src/checkpoint/shard_file.h"

namespace dither {

namespace {

/// The elements of a segment that this one of `copies` owners writes, as a range of the whole tensor.
struct Share {
  int64_t begin, end;
};
Share share_of(const Segment& s, int64_t copy, int64_t copies) {
  return {s.first + s.count * copy / copies, s.first + s.count * (copy + 1) / copies};
}

/// A whole tensor keeps its shape.
std::vector<int64_t> shape_of(const StatePiece& piece) {
  const Parameter& p = *piece.parameter;
  if (piece.end - piece.begin != p.elements()) return {piece.end - piece.begin};
  if (p.columns == 1) return {p.rows};
  return {p.rows, p.columns};
}

ShardTensor tensor_of(const StatePiece& piece) {
  return {{.state = piece.state, .parameter = piece.parameter->name, .begin = piece.begin, .end = piece.end},
          piece.view.type,
          shape_of(piece)};
}

}  // namespace

std::vector<StatePiece> state_pieces(const ParameterTable& table, const Optimizer& optimizer, int64_t copy,
                                     int64_t copies) {
  std::vector<StatePiece> pieces;
  for (const StateArray& array : optimizer.state()) {
    for (const Segment& s : array.part->segments) {
      const Share share = share_of(s, copy, copies);
      if (share.begin == share.end) continue;
      pieces.push_back({array.name, &table.by_id(s.tensor), share.begin, share.end,
                        array.view.at(s.offset + share.begin - s.first)});
    }
  }
  return pieces;
}

Shard::Shard(std::vector<StatePiece> pieces, Backend& backend, Stream stream)
    : pieces_(std::move(pieces)), backend_(backend), stream_(stream) {
  order_as_shard(pieces_, [](const StatePiece& piece) { return piece.view.type; });
  for (const StatePiece& piece : pieces_) bytes_ += piece.bytes();
}

void Shard::reserve() {
  if (!copy_) copy_ = std::make_unique<std::byte[]>(static_cast<size_t>(bytes_));  // zeros
}

void Shard::copy_to_host() {
  reserve();
  std::byte* next = copy_.get();
  for (const StatePiece& piece : pieces_) {
    backend_.copy_to_host(next, piece.view.data, piece.bytes(), stream_);
    next += piece.bytes();
  }
  backend_.synchronize(stream_);
}

ShardRecord Shard::write(FileSystem& files, const std::string& folder, const std::string& file, bool from_copy,
                         const std::function<void()>& progress) const {
  DITHER_ASSERT(!from_copy || copy_ != nullptr);
  std::vector<ShardTensor> tensors;
  for (const StatePiece& piece : pieces_) tensors.push_back(tensor_of(piece));
  ShardFile out(files, folder, file, tensors);
  std::vector<std::byte> chunk(from_copy ? 0 : static_cast<size_t>(std::min(kShardPieceBytes, bytes_)));
  const std::byte* next = copy_.get();
  for (const StatePiece& piece : pieces_) {
    const auto* source = static_cast<const std::byte*>(piece.view.data);
    for (int64_t left = piece.bytes(); left > 0;) {
      const int64_t bytes = std::min(left, kShardPieceBytes);
      if (!from_copy) {
        backend_.copy_to_host(chunk.data(), source, bytes, stream_);
        backend_.synchronize(stream_);
        source += bytes;
      }
      out.write(from_copy ? next : chunk.data(), bytes);
      if (from_copy) next += bytes;
      left -= bytes;
      if (progress) progress();
    }
  }
  return out.finish();
}

}  // namespace dither
