// From text files to shards that a run can read, without Python: one token a byte.
//
// Output, in one folder: train_000000.bin, train_000001.bin, ... and val_000000.bin, ... (16-bit shards) and
// tokenizer.bin (docs/data-format.md). Each text file is one document: its bytes, then the token end of text. Its last
// `validation_fraction` goes to validation, cut after the first line that ends at or beyond that point, so that
// training and validation share the mix of documents and no line is split; each of the two parts ends with end of text.
// A byte order mark of UTF-8 at a file's start is left out. Shards are of equal size; what is left behind the last one
// becomes a shard if it is longer than any window (2^20 tokens and one), else it is added to the shard before.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace dither {

constexpr int64_t kDefaultShardTokens = 100'000'000;  // 200 MB a file, as llm.c's

struct PreparedCorpus {
  int64_t train_tokens = 0;
  int64_t validation_tokens = 0;
  int64_t train_shards = 0;
  int64_t validation_shards = 0;
};

/// Streams the files, in memory of a few MB. Every output is written under a temporary name and renamed when all are
/// complete, tokenizer.bin last; after an error nothing of it is left.
/// `validation_fraction` 0 writes no validation shards. Throws Error: no text file, a missing or empty one, a fraction
/// outside [0, 1), what is not plain text (text_kind.h), a fraction that gives validation no byte, shards already in
/// the folder, a failed write.
PreparedCorpus prepare_byte_corpus(const std::vector<std::string>& text_files, const std::string& output_folder,
                                   double validation_fraction, int64_t shard_tokens = kDefaultShardTokens);

}  // namespace dither
