#include "src/data/coverage.h"

#include <fmt/format.h>

#include "base/counted.h"

namespace dither {

Coverage coverage_of(const TokenShards& shards, int64_t T) {
  Coverage all;
  for (int64_t shard = 0; shard < shards.shards(); ++shard) {
    const int64_t windows = windows_in(shards.tokens(shard), T);
    all.samples += windows;
    all.unseen_tokens += shards.tokens(shard) - (windows > 0 ? windows * T + 1 : 0);
    if (windows == 0) ++all.short_shards;
  }
  return all;
}

std::string unseen_tokens_warning(const TokenShards& shards, int64_t T) {
  constexpr int64_t kSilentParts = 100;  // one in a hundred
  const Coverage coverage = coverage_of(shards, T);
  if (coverage.unseen_tokens <= shards.tokens() / kSilentParts) return "";
  return fmt::format(
      "{}: {} of its {} are in no sample ({:.1f} %): a sample needs {} in a row (model.sequence_length + 1) within one "
      "shard, {} of {} shorter than that, and the ends of the others are left over\n       cures: fewer and larger "
      "shards (dither tokenize and scripts/prepare_data.py make such), or a smaller model.sequence_length",
      shards.pattern(), with_commas(coverage.unseen_tokens), counted(shards.tokens(), "token"),
      100.0 * static_cast<double>(coverage.unseen_tokens) / static_cast<double>(shards.tokens()),
      counted(T + 1, "token"), with_commas(coverage.short_shards),
      counted(shards.shards(), "shard") + (coverage.short_shards == 1 ? " is" : " are"));
}

}  // namespace dither
