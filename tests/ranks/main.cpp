// Joins the ranks, then runs Catch2's cases on each of them. Rank 0 reports; another rank does where something failed.
#define CATCH_CONFIG_RUNNER
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "tests/catch.h"
#include "tests/ranks/job.h"

namespace dither {

namespace {

constexpr double kHangs = 60;  // seconds without progress
std::unique_ptr<Ranks> g_ranks;

}  // namespace

Ranks& job() { return *g_ranks; }

std::string complaints(const std::string& mine) {
  job().control().phase("complaints");
  std::string all;
  const std::vector<std::string> texts = job().control().all_gather(mine);
  for (size_t r = 0; r < texts.size(); ++r) {
    if (!texts[r].empty()) all += "rank " + std::to_string(r) + ": " + texts[r] + "\n";
  }
  return all;
}

}  // namespace dither

int main(int argc, char** argv) {
  using dither::g_ranks;
  try {
    g_ranks = std::make_unique<dither::Ranks>();
    g_ranks->control().watch(dither::kHangs);
    int failed = 0;
    g_ranks->run([&] { failed = Catch::Session().run(argc, argv); });
    const int status = failed == 0 ? 0 : 1;
    g_ranks.reset();
    return status;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
}
