// parse_manifest() on any text. What it accepts is said again by to_text() and read back: the same manifest, and the
// same text.
//
// The text is tried twice: as it is, where the checksum in its last line but one is almost always wrong and must be the
// reason to refuse it, and with the right one, because no fuzzer guesses 64 bits. The verdict is on the second.
#include <cstring>
#include <string_view>

#include "base/checksum.h"
#include "base/error.h"
#include "src/checkpoint/manifest.h"
#include "tests/fuzz/target.h"

namespace dither {
namespace {

constexpr std::string_view kBegin = "\"xxh3\": \"", kEnd = "\"\n}\n";
constexpr size_t kTrailer = kBegin.size() + 16 + kEnd.size();

/// `text` with the right checksum in the place where it has one, else behind it.
std::string repaired(std::string_view text) {
  const std::string_view last = text.size() < kTrailer ? "" : text.substr(text.size() - kTrailer);
  const bool has_one = last.substr(0, kBegin.size()) == kBegin && last.substr(kTrailer - kEnd.size()) == kEnd;
  std::string body(has_one ? text.substr(0, text.size() - kTrailer) : text);
  const std::string checksum = checksum_text(checksum_of(body.data(), body.size()));
  return body.append(kBegin).append(checksum).append(kEnd);
}

/// Bit for bit: -0.0 is not 0.0 to a run that must go on as if it had never ended.
bool same(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0);
}

bool same(const ShardRecord& a, const ShardRecord& b) {
  if (a.file != b.file || a.bytes != b.bytes || a.checksum != b.checksum || a.ranges.size() != b.ranges.size()) {
    return false;
  }
  for (size_t i = 0; i < a.ranges.size(); ++i) {
    const StateRange &left = a.ranges[i], &right = b.ranges[i];
    if (left.tensor() != right.tensor() || left.state != right.state) return false;
    if (left.begin != right.begin || left.end != right.end) return false;
  }
  return true;
}

bool same(const Manifest& a, const Manifest& b) {
  const TrainingState &left = a.training, &right = b.training;
  if (left.step != right.step || left.samples != right.samples || left.tokens != right.tokens ||
      !same(left.losses, right.losses) || !same(left.norms, right.norms) || left.skipped_steps != right.skipped_steps ||
      left.skipped_in_a_row != right.skipped_in_a_row) {
    return false;
  }
  if (a.config != b.config || a.commit != b.commit || a.arithmetic != b.arithmetic || a.algorithms != b.algorithms ||
      a.data != b.data || a.ranks != b.ranks || a.shards.size() != b.shards.size()) {
    return false;
  }
  for (size_t i = 0; i < a.shards.size(); ++i) {
    if (!same(a.shards[i], b.shards[i])) return false;
  }
  return true;
}

/// What a reader of the shards relies on.
void check_promises(const Manifest& manifest) {
  DITHER_ASSERT(manifest.ranks >= 1 && manifest.training.step >= 0 && manifest.training.samples >= 0);
  DITHER_ASSERT(manifest.training.skipped_in_a_row <= manifest.training.skipped_steps);
  for (const ShardRecord& shard : manifest.shards) {
    DITHER_ASSERT(shard.bytes >= 0 && !shard.file.empty() && shard.file != "." && shard.file != "..");
    DITHER_ASSERT(shard.file.find('/') == std::string::npos && shard.file.find('\0') == std::string::npos);
    for (const StateRange& range : shard.ranges) DITHER_ASSERT(0 <= range.begin && range.begin < range.end);
  }
}

bool parses(std::string_view text, Manifest& manifest) {
  try {
    manifest = parse_manifest(text, "bytes");
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

bool accepts(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::string fixed = repaired(text);
  Manifest as_it_is, manifest;
  if (parses(text, as_it_is)) DITHER_ASSERT(text == fixed);
  if (!parses(fixed, manifest)) return false;
  check_promises(manifest);
  const std::string written = to_text(manifest);
  const Manifest again = parse_manifest(written, "its own text");  // an Error here leaves: a finding
  DITHER_ASSERT(same(manifest, again));
  DITHER_ASSERT(to_text(again) == written);
  return true;
}

}  // namespace dither
