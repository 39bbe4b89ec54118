// scripts/slurm.sh, with stand-ins for Slurm's two programs: `scontrol` names this machine, and `srun` starts two ranks
// here with the variables that Slurm gives them. Slurm itself is not needed, and not tested.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "tests/catch.h"
#include "tests/ranks_jobs/job.h"

namespace dither::test {

namespace {

constexpr const char* kScontrol = R"sh(#!/usr/bin/env bash
[ "$*" = "show hostnames some[1-2]" ] || exit 1
printf '127.0.0.1\nsome2\n'
)sh";

// Its options end at the first word without dashes.
constexpr const char* kSrun = R"sh(#!/usr/bin/env bash
echo "$*" >srun.txt
while [ "${1#--}" != "$1" ]; do shift; done
export SLURM_STEP_NUM_TASKS=2 SLURM_STEP_TASKS_PER_NODE=2
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" &
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" && wait $!
)sh";

/// Runs the script as a job of this number in the folder, with variables before it and arguments behind.
Outcome run_slurm(const JobPlace& place, const std::vector<std::string>& variables,
                  const std::vector<std::string>& arguments) {
  namespace fs = std::filesystem;
  fs::create_directories(place / "bin");
  for (const auto& [name, text] : {std::pair{"scontrol", kScontrol}, {"srun", kSrun}}) {
    const std::string path = place / (std::string("bin/") + name);
    write_file(path, text);
    fs::permissions(path, fs::perms::owner_all);
  }
  std::vector<std::string> command = {"/usr/bin/env", "PATH=" + (place / "bin") + ":" + std::getenv("PATH"),
                                      // unlike that of a test beside this one
                                      "SLURM_JOB_ID=" + std::to_string(getpid()), "SLURM_JOB_NODELIST=some[1-2]",
                                      "SLURM_JOB_NUM_NODES=2", "SLURM_CPUS_PER_TASK=1",
                                      "DITHER=" DITHER_BINARY_DIR "/dither"};
  command.insert(command.end(), variables.begin(), variables.end());
  command.emplace_back(DITHER_SOURCE_DIR "/scripts/slurm.sh");
  command.insert(command.end(), arguments.begin(), arguments.end());
  Job job(place, command);
  return job.wait(60);
}

}  // namespace

// Catches: ranks that do not meet, an address of another node than the first, arguments that get lost or split, threads
// that a --set behind cannot change.
TEST_CASE("slurm.sh trains on the ranks that srun starts") {
  const JobPlace place;
  const Outcome outcome = run_slurm(
      place, {}, {"c.json", "--set", "steps=2", "--set", "sampling.prompt=two words", "--set", "parallel.threads=2"});
  INFO(outcome.out << outcome.err);
  REQUIRE(outcome.status == 0);
  const nlohmann::json config = nlohmann::json::parse(read_whole(place / "runs/c/config.json"));
  REQUIRE(config.at("sampling").at("prompt") == "two words");
  REQUIRE(config.at("parallel").at("threads") == 2);
  REQUIRE(place.events("c").front().at("ranks") == 2);
  REQUIRE(has(outcome.out, "rank 0 at 127.0.0.1:" + std::to_string(10000 + getpid() % 20000)));
  REQUIRE(has(read_whole(place / "srun.txt"), "--mpi=none --distribution=block:block --cpus-per-task=1 "));
}

TEST_CASE("slurm.sh refuses a launcher that it does not know, and to run outside a job") {
  const JobPlace place;
  const Outcome launcher = run_slurm(place, {"DITHER_LAUNCH=openmpi"}, {"c.json"});
  CHECK(launcher.status == 2);
  CHECK(launcher.err == "error: DITHER_LAUNCH is \"openmpi\", needs none, pmix or pmi2\n");
  const Outcome alone = run_slurm(place, {"SLURM_JOB_ID="}, {"c.json"});
  CHECK(alone.status == 2);
  CHECK(has(alone.err, "usage: sbatch "));
  CHECK(!std::filesystem::exists(place / "srun.txt"));
}

}  // namespace dither::test
