#include "src/training/agreement.h"

#include <fmt/format.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "base/commit.h"
#include "base/error.h"
#include "src/config/computation.h"  // hash_text()
#include "src/config/keys.h"         // key_table()

namespace dither {

namespace {

/// Calls complain(rank, its text) for the first rank whose text is not rank 0's.
template <class Complain>
void compare(Control& control, const std::string& mine, const Complain& complain) {
  if (control.size() == 1) return;
  const std::vector<std::string> texts = control.all_gather(mine);
  for (size_t r = 1; r < texts.size(); ++r) {
    if (texts[r] != texts[0]) complain(r, texts[0], texts[r]);
  }
}

struct Difference {
  std::string there, here;  // on the other rank, on rank 0; "nothing" where a text has ended
};

/// The first lines in which two texts differ.
Difference difference(const std::string& here, const std::string& there) {
  std::istringstream a(here), b(there);
  Difference lines;
  do {
    if (!std::getline(a, lines.here)) lines.here = "nothing";
    if (!std::getline(b, lines.there)) lines.there = "nothing";
  } while (lines.here == lines.there && (a || b));
  return lines;
}

constexpr const char* kIs = " is ";

/// "path is value" for each key, in the order of the table; without the one that a rank may have for itself.
std::string key_lines(const Config& config) {
  std::string text;
  for (const Key& key : key_table()) {
    if (key.load && key.path != "parallel.device_index") {
      text += key.path + kIs + key.load(config).dump() + "\n";
    }
  }
  return text;
}

std::string program_text() {
  std::ifstream file("/proc/self/exe", std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  return fmt::format("commit {}, XXH3 of the program {}", commit(), file ? hash_text(bytes) : "unknown");
}

}  // namespace

std::string idle_ranks_warning(const Config& config, int ranks) {
  const int64_t sequences = config.batch.tokens_per_step / config.model.sequence_length;
  const int64_t micro_batches = sequences / config.batch.micro_batch_size;
  if (micro_batches >= ranks) return "";
  return fmt::format(
      "ranks without work: {} of {}: a step of {} tokens is {} micro-batch{} of {} x {} tokens\n       cures: fewer "
      "ranks, a smaller batch.micro_batch_size, or a larger batch.tokens_per_step",
      ranks - micro_batches, ranks, config.batch.tokens_per_step, micro_batches, micro_batches == 1 ? "" : "es",
      config.batch.micro_batch_size, config.model.sequence_length);
}

void demand_same_config(Control& control, const Config& config) {
  compare(control, key_lines(config), [](size_t rank, const std::string& here, const std::string& there) {
    const Difference lines = difference(here, there);
    throw Error(
        fmt::format("rank {} has another config than rank 0: {} there, {} on rank 0\n       cure: start all ranks with "
                    "the same config file and --set",
                    rank, lines.there, lines.here.substr(lines.here.find(kIs) + std::strlen(kIs))));
  });
}

void demand_same_program(Control& control) {
  compare(control, program_text(), [](size_t rank, const std::string& first, const std::string& other) {
    throw Error(
        fmt::format("rank {} runs another program than rank 0: {} there, {} on rank 0\n       cure: install the same "
                    "build on all nodes",
                    rank, other, first));
  });
}

void demand_same_data(Control& control, const TokenShards& shards, const std::string& what) {
  compare(control, shards.fingerprint(), [&](size_t rank, const std::string& here, const std::string& there) {
    const Difference lines = difference(here, there);
    throw Error(
        fmt::format("rank {} has other {} than rank 0 under {}: {} there, {} on rank 0\n       cure: the same "
                    "files on all nodes",
                    rank, what, shards.pattern(), lines.there, lines.here));
  });
}

void demand_same_tokenizer(Control& control, const std::string& tokenizer) {
  const std::string mine = tokenizer.empty() ? "none" : "XXH3 " + tokenizer;
  compare(control, mine, [](size_t rank, const std::string& here, const std::string& there) {
    throw Error(
        fmt::format("rank {} has another tokenizer.bin beside the shards than rank 0: {} there, {} on rank 0\n"
                    "       cure: the same files on all nodes",
                    rank, there, here));
  });
}

void demand_fitting_devices(Control& control, const Config& config, const Backend& backend) {
  if (config.parallel.reduction == Reduction::ordered) {
    const std::string arithmetic =
        fmt::format("{}, algorithms {}", backend.arithmetic(), hash_text(backend.algorithms()));
    compare(control, arithmetic, [](size_t rank, const std::string& first, const std::string& other) {
      throw Error(fmt::format(
          "rank {} computes by {}, rank 0 by {}: under parallel.reduction \"ordered\" all must be the "
          "same\n       cures: equal nodes with the same table of algorithms, or parallel.reduction \"fp32\"",
          rank, other, first));
    });
  }
  if (control.size() == 1 || config.parallel.share_device) return;
  const std::vector<std::string> devices = control.all_gather(backend.device_id());
  for (size_t r = 1; r < devices.size(); ++r) {
    for (size_t other = 0; other < r; ++other) {
      if (devices[r].empty() || devices[r] != devices[other]) continue;
      throw Error(
          fmt::format("ranks {} and {} use the same GPU, {}\n       cures: as many ranks on a node as GPUs, "
                      "parallel.device_index, or parallel.share_device true",
                      other, r, devices[r]));
    }
  }
}

}  // namespace dither
