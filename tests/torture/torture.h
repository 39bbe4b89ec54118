// Kills and resumes of one configuration, and what they came to.
#pragma once

#include <cstdint>
#include <string>

namespace dither::torture {

struct Options {
  int64_t kills = 20;
  uint64_t seed = 1;
  int ranks = 1;
  int zero_stage = 0;
  bool forgetful = false;
  int64_t steps = 120;
  std::string folder;  // empty, to work in
};

struct Figures {
  int64_t kills = 0;
  int64_t inside = 0;       // of them: while a checkpoint was written or removed
  int64_t of_one_rank = 0;  // of them: the other ranks had to notice
  int64_t runs = 0;         // that reached their end and had the uninterrupted run's weights and losses
  int64_t steps_lost = 0;   // computed and then behind the checkpoint that was resumed from
  int64_t worst_lost = 0;   // by one kill
  double seconds = 0;
};

/// Trains, kills and resumes until `kills` are done and the last run has ended. Throws Error for anything that is not
/// as it should be.
Figures torture(const Options& options);

}  // namespace dither::torture
