// Numbers in messages.
#pragma once

#include <cstdint>
#include <string>

namespace dither {

/// 124475904 as "124,475,904".
std::string with_commas(int64_t n);

/// "1 shard", "2 shards", "1,000 micro-batches": the plural of `noun` is it and an ending.
std::string counted(int64_t n, const std::string& noun, const std::string& ending = "s");

}  // namespace dither
