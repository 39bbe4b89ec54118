// What each launcher's variables mean, and what half a set of them says.
#include "src/parallel/rank_environment.h"

#include <cstdlib>
#include <map>
#include <string>

#include "base/error.h"
#include "tests/catch.h"

namespace dither::test {
namespace {

using Catch::Matchers::ContainsSubstring;
using Variables = std::map<std::string, std::string>;

/// The environment with these variables of launchers and no others; put back at the end. The tests themselves may run
/// under a launcher.
class Environment {
 public:
  explicit Environment(const Variables& variables) {
    for (const char* name : kNames) {
      if (const char* text = std::getenv(name)) before_[name] = text;
      REQUIRE(unsetenv(name) == 0);
    }
    for (const auto& [name, text] : variables) {
      REQUIRE(std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames));
      REQUIRE(setenv(name.c_str(), text.c_str(), 1) == 0);
    }
  }
  ~Environment() {
    for (const char* name : kNames) unsetenv(name);
    for (const auto& [name, text] : before_) setenv(name.c_str(), text.c_str(), 1);
  }

 private:
  static constexpr const char* kNames[] = {"DITHER_RANK",
                                           "DITHER_RANKS",
                                           "DITHER_LOCAL_RANK",
                                           "DITHER_LOCAL_RANKS",
                                           "DITHER_ADDRESS",
                                           "DITHER_RENDEZVOUS",
                                           "OMPI_COMM_WORLD_RANK",
                                           "OMPI_COMM_WORLD_SIZE",
                                           "OMPI_COMM_WORLD_LOCAL_RANK",
                                           "OMPI_COMM_WORLD_LOCAL_SIZE",
                                           "PMI_RANK",
                                           "PMI_SIZE",
                                           "PMIX_RANK",
                                           "MPI_LOCALRANKID",
                                           "MPI_LOCALNRANKS",
                                           "SLURM_PROCID",
                                           "SLURM_NTASKS",
                                           "SLURM_STEP_NUM_TASKS",
                                           "SLURM_LOCALID",
                                           "SLURM_STEP_TASKS_PER_NODE",
                                           "SLURM_NNODES",
                                           "RANK",
                                           "WORLD_SIZE",
                                           "LOCAL_RANK",
                                           "LOCAL_WORLD_SIZE",
                                           "MASTER_ADDR",
                                           "MASTER_PORT"};
  Variables before_;
};

Variables operator+(Variables a, const Variables& b) {
  for (const auto& [name, text] : b) a[name] = text;
  return a;
}

Variables without(Variables variables, const std::string& name) {
  variables.erase(name);
  return variables;
}

RankEnvironment read(const Variables& variables) {
  const Environment environment(variables);
  return rank_environment();
}

/// The message with which reading ends.
std::string complaint(const Variables& variables) {
  try {
    read(variables);
  } catch (const Error& error) {
    return error.what();
  }
  return "no complaint";
}

/// rank/ranks local_rank/local_ranks launcher, and whether MPI.
std::string summary(const RankEnvironment& e) {
  return std::to_string(e.rank) + "/" + std::to_string(e.ranks) + " " + std::to_string(e.local_rank) + "/" +
         std::to_string(e.local_ranks) + " " + e.launcher + (e.mpi ? " MPI" : "");
}

std::string summary(const Variables& variables) { return summary(read(variables)); }

const Variables kByHand = {{"DITHER_RANK", "1"}, {"DITHER_RANKS", "2"}, {"DITHER_RENDEZVOUS", "/shared/meeting"}};
const Variables kOpenMpi = {{"OMPI_COMM_WORLD_RANK", "5"},
                            {"OMPI_COMM_WORLD_SIZE", "8"},
                            {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                            {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"},
                            {"PMIX_RANK", "5"}};
const Variables kMpich = {{"PMI_RANK", "3"}, {"PMI_SIZE", "6"}, {"MPI_LOCALRANKID", "0"}, {"MPI_LOCALNRANKS", "3"}};
const Variables kSrun = {{"SLURM_PROCID", "6"},  {"SLURM_NTASKS", "9"}, {"SLURM_STEP_NUM_TASKS", "8"},
                         {"SLURM_LOCALID", "2"}, {"SLURM_NNODES", "2"}, {"SLURM_STEP_TASKS_PER_NODE", "4(x2)"}};
const Variables kTorchrun = {{"RANK", "7"},
                             {"WORLD_SIZE", "16"},
                             {"LOCAL_RANK", "3"},
                             {"LOCAL_WORLD_SIZE", "4"},
                             {"MASTER_ADDR", "node1"},
                             {"MASTER_PORT", "29500"}};

}  // namespace

// Catches: a variable of one set read for another, local and global numbers swapped, MPI promised where no MPI started
// us.
TEST_CASE("each launcher's variables give rank, local rank and whether MPI is there") {
  CHECK(summary(Variables{}) == "0/1 0/1 ");
  CHECK(summary(kByHand) == "1/2 1/0 environment");
  CHECK(summary(kByHand + Variables{{"DITHER_LOCAL_RANK", "0"}, {"DITHER_LOCAL_RANKS", "1"}}) == "1/2 0/1 environment");
  CHECK(summary(kOpenMpi) == "5/8 1/4 mpirun MPI");
  CHECK(summary(kMpich) == "3/6 0/3 mpirun MPI");
  CHECK(summary(kSrun) == "6/8 2/4 srun");
  CHECK(summary(kSrun + Variables{{"PMIX_RANK", "6"}}) == "6/8 2/4 srun MPI");
  CHECK(summary(kTorchrun) == "7/16 3/4 environment");
}

TEST_CASE("where several launchers have left variables the first of the list counts") {
  CHECK(summary(kTorchrun + kSrun + kMpich + kOpenMpi + kByHand) == "1/2 1/0 environment");
  CHECK(summary(kTorchrun + kSrun + kMpich + kOpenMpi) == "5/8 1/4 mpirun MPI");
  CHECK(summary(kTorchrun + kSrun + kMpich) == "3/6 0/3 mpirun MPI");
  CHECK(summary(kTorchrun + kSrun) == "6/8 2/4 srun");
}

// srun --mpi=pmi2 gives PMI's two variables, but no local rank under MPICH's name.
TEST_CASE("PMI_RANK beside srun's variables is srun with MPI") {
  CHECK(summary(kSrun + Variables{{"PMI_RANK", "6"}, {"PMI_SIZE", "8"}}) == "6/8 2/4 srun MPI");
}

// Catches: sbatch's script taken for rank 0 of its tasks, which then waits for ranks that nobody starts.
TEST_CASE("a Slurm batch script is a process by itself") {
  CHECK(
      summary(Variables{{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}, {"SLURM_LOCALID", "0"}, {"SLURM_NNODES", "2"}}) ==
      "0/1 0/1 ");
}

TEST_CASE("one rank under a launcher is a process by itself that keeps its launcher") {
  CHECK(summary(Variables{{"DITHER_RANK", "0"}, {"DITHER_RANKS", "1"}}) == "0/1 0/1 environment");
  CHECK(summary(Variables{{"OMPI_COMM_WORLD_RANK", "0"},
                          {"OMPI_COMM_WORLD_SIZE", "1"},
                          {"OMPI_COMM_WORLD_LOCAL_RANK", "0"},
                          {"OMPI_COMM_WORLD_LOCAL_SIZE", "1"}}) == "0/1 0/1 mpirun MPI");
  CHECK(summary(Variables{
            {"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_LOCALID", "0"}, {"SLURM_NNODES", "1"}}) ==
        "0/1 0/1 srun");
}

TEST_CASE("Slurm's ranks on this node are known where all nodes have the same number") {
  const auto local_ranks = [](const std::string& text) {
    return read(kSrun + Variables{{"SLURM_STEP_TASKS_PER_NODE", text}}).local_ranks;
  };
  CHECK(local_ranks("4(x2)") == 4);
  CHECK(local_ranks("4,4") == 4);
  CHECK(local_ranks("8") == 8);
  CHECK(local_ranks("3(x2),2") == 0);
  CHECK(local_ranks("2,3(x2)") == 0);
  const Variables older = without(kSrun, "SLURM_STEP_TASKS_PER_NODE");
  CHECK(read(older).local_ranks == 0);
  CHECK(read(older + Variables{{"SLURM_NNODES", "1"}}).local_ranks == 8);
  for (const char* bad : {"", "4(x2", "four", "4,,4", "4(y2)", "4,", "0(x8)", "4(x)"}) {
    CHECK_THAT(complaint(kSrun + Variables{{"SLURM_STEP_TASKS_PER_NODE", bad}}),
               ContainsSubstring("SLURM_STEP_TASKS_PER_NODE is \"" + std::string(bad) + "\""));
  }
}

// Catches: half a set read as a process by itself, so that eight ranks train eight models.
TEST_CASE("some of a launcher's variables without the others are named") {
  for (const Variables& set :
       {kOpenMpi, kMpich, without(kTorchrun, "MASTER_ADDR") + Variables{{"MASTER_ADDR", "node1"}}}) {
    for (const auto& [name, text] : set) {
      if (name == "PMIX_RANK") continue;
      INFO("without " << name);
      CHECK_THAT(complaint(without(set, name)), ContainsSubstring("but no " + name + ":"));
    }
  }
  for (const char* name : {"SLURM_PROCID", "SLURM_LOCALID"}) {
    CHECK_THAT(complaint(without(kSrun, name)),
               ContainsSubstring("has SLURM_STEP_NUM_TASKS but no " + std::string(name)));
  }
  CHECK_THAT(complaint(Variables{{"DITHER_RANK", "1"}}), ContainsSubstring("has DITHER_RANK but no DITHER_RANKS"));
  CHECK_THAT(complaint(Variables{{"DITHER_LOCAL_RANKS", "2"}}),
             ContainsSubstring("has DITHER_LOCAL_RANKS but no DITHER_RANK:"));
  CHECK_THAT(complaint(kByHand + Variables{{"DITHER_LOCAL_RANK", "0"}}),
             ContainsSubstring("but no DITHER_LOCAL_RANKS"));
  CHECK_THAT(complaint(kByHand + Variables{{"DITHER_LOCAL_RANKS", "2"}}),
             ContainsSubstring("but no DITHER_LOCAL_RANK:"));
}

TEST_CASE("a variable that is no number, or no possible one, is shown with what is allowed") {
  const auto with = [](const std::string& name, const std::string& text) {
    return complaint(kOpenMpi + Variables{{name, text}});
  };
  CHECK(with("OMPI_COMM_WORLD_RANK", "8") ==
        "the environment's OMPI_COMM_WORLD_RANK is \"8\", needs an integer from 0 to 7 (OMPI_COMM_WORLD_SIZE is 8)");
  CHECK(with("OMPI_COMM_WORLD_LOCAL_RANK", "4") ==
        "the environment's OMPI_COMM_WORLD_LOCAL_RANK is \"4\", needs an integer from 0 to 3 "
        "(OMPI_COMM_WORLD_LOCAL_SIZE is 4)");
  CHECK(with("OMPI_COMM_WORLD_LOCAL_SIZE", "9") ==
        "the environment's OMPI_COMM_WORLD_LOCAL_SIZE is \"9\", needs an integer from 1 to 8 (OMPI_COMM_WORLD_SIZE is "
        "8)");
  for (const char* bad : {"", "0", "-1", "4x", " 4", "4.0", "99999999999"}) {
    CHECK(with("OMPI_COMM_WORLD_SIZE", bad) ==
          "the environment's OMPI_COMM_WORLD_SIZE is \"" + std::string(bad) + "\", needs an integer from 1 to 65536");
  }
}

TEST_CASE("rank 0's address and the rendezvous file count under every launcher") {
  const Variables torchs = {{"MASTER_ADDR", "node1"}, {"MASTER_PORT", "29500"}};
  for (const Variables& set : {Variables{}, kByHand, kOpenMpi, kMpich, kSrun, kTorchrun}) {
    CHECK(read(set + torchs).address == "node1:29500");
    CHECK(read(set + torchs + Variables{{"DITHER_ADDRESS", "node2:4000"}}).address == "node2:4000");
    CHECK(read(set + Variables{{"DITHER_RENDEZVOUS", "/shared/other"}}).rendezvous == "/shared/other");
  }
  CHECK(read(kByHand).address.empty());
  CHECK(read(Variables{{"MASTER_ADDR", "fe::1"}, {"MASTER_PORT", "1"}}).address == "[fe::1]:1");
  CHECK(read(Variables{{"DITHER_ADDRESS", "[::1]:65535"}}).address == "[::1]:65535");
}

TEST_CASE("an address that cannot be one is refused") {
  for (const char* bad :
       {"node7", "node7:", ":29500", "node7:0", "node7:65536", "node7:29500x", "::1:29500", "[]:1", "[::1:1"}) {
    INFO(bad);
    CHECK_THAT(complaint(Variables{{"DITHER_ADDRESS", bad}}),
               ContainsSubstring("DITHER_ADDRESS is \"" + std::string(bad) + "\", needs host:port"));
  }
  CHECK_THAT(complaint(Variables{{"MASTER_ADDR", "node1"}, {"MASTER_PORT", "http"}}),
             ContainsSubstring("MASTER_PORT is \"http\""));
  CHECK_THAT(complaint(Variables{{"MASTER_ADDR", "node1"}}), ContainsSubstring("has MASTER_ADDR but no MASTER_PORT"));
  CHECK_THAT(complaint(Variables{{"MASTER_PORT", "1"}}), ContainsSubstring("has MASTER_PORT but no MASTER_ADDR"));
}

}  // namespace dither::test
