// Whether validation judges by text that training sees.
//
// Two looks, with a bounded cost however large the corpora are:
//   files    a validation shard of the same size and the same content (TokenShards::digest()) as a training shard
//   pieces   the validation text is cut into pieces of 128 tokens; training text is searched for them at every
//   position.
//            Up to 2^25 validation and 2^26 training tokens are read, in blocks of 65,536 that lie evenly over the
//            corpus: a second or so, cut off after some. All of a corpus of that size is looked at, of a larger one a
//            part; a stretch of more than a thousandth of the training text is always met.
// Texts that are alike but not equal token by token for 128 tokens are not found.
#pragma once

#include <string>

#include "src/data/token_shards.h"

namespace dither {

struct SharedText {
  int64_t pieces = 0, found = 0;  // of validation: different ones that were searched, and those that training has too
  double searched = 1;            // part of the training text that was looked at
};

SharedText shared_text(const TokenShards& train, const TokenShards& validation);

/// That the same text is in both, and how much; "" where nothing, or no more than texts usually repeat, was found.
std::string shared_text_warning(const TokenShards& train, const TokenShards& validation);

}  // namespace dither
