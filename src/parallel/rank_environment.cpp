// How each launcher tells a process its rank. Five sets of variables, in the order of rank_environment.h; the first
// that is there must be there as a whole, so that half a set never becomes a job of the wrong size.
//
// Two rules concern Slurm. Its batch script has SLURM_PROCID but no SLURM_STEP_NUM_TASKS: a process by itself. And srun
// --mpi=pmi2 sets PMI_RANK and PMI_SIZE as MPICH's mpirun does, but no MPI_LOCALRANKID: those ranks are srun's, with
// MPI.
#include "src/parallel/rank_environment.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "src/parallel/sockets.h"  // parse_address

namespace dither {
namespace {

constexpr int kMostRanks = 65536;           // no job is larger; a number beyond it is a mistake
constexpr int kMostConnectSeconds = 86400;  // a day

struct Names {
  const char* launcher;
  bool mpi;
  const char *rank, *ranks, *local_rank, *local_ranks;
  bool local_needed;
};

constexpr Names kByHand = {"environment",        false, "DITHER_RANK", "DITHER_RANKS", "DITHER_LOCAL_RANK",
                           "DITHER_LOCAL_RANKS", false};
constexpr Names kOpenMpi = {"mpirun",
                            true,
                            "OMPI_COMM_WORLD_RANK",
                            "OMPI_COMM_WORLD_SIZE",
                            "OMPI_COMM_WORLD_LOCAL_RANK",
                            "OMPI_COMM_WORLD_LOCAL_SIZE",
                            true};
constexpr Names kMpich = {"mpirun", true, "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", true};
constexpr Names kTorchrun = {"environment", false, "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", true};

bool is_set(const char* name) { return std::getenv(name) != nullptr; }

std::string text_of(const char* name) {
  const char* text = std::getenv(name);
  return text != nullptr ? text : "";
}

std::optional<int> parse_int(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// The variable as an integer from `low` to `high`; `why` says where the bound comes from.
int integer(const char* name, int low, int high, const std::string& why = "") {
  const std::optional<int> value = parse_int(text_of(name));
  if (!value || *value < low || *value > high) {
    throw Error(fmt::format("the environment's {} is \"{}\", needs an integer from {} to {}{}", name, text_of(name),
                            low, high, why));
  }
  return *value;
}

int count(const char* name) { return integer(name, 1, kMostRanks); }

int below(const char* name, int end, const char* end_name) {
  return integer(name, 0, end - 1, fmt::format(" ({} is {})", end_name, end));
}

/// Throws for a variable that misses while others of its set are there.
void need(const char* missing, const char* present) {
  if (is_set(missing)) return;
  throw Error(
      fmt::format("the environment has {} but no {}: set both, or neither for a process by itself", present, missing));
}

const char* any_set(const Names& names) {
  for (const char* name : {names.rank, names.ranks, names.local_rank, names.local_ranks}) {
    if (is_set(name)) return name;
  }
  return nullptr;
}

RankEnvironment read(const Names& names) {
  const char* present = any_set(names);
  need(names.rank, present);
  need(names.ranks, present);
  RankEnvironment environment;
  environment.launcher = names.launcher;
  environment.mpi = names.mpi;
  environment.ranks = count(names.ranks);
  environment.rank = below(names.rank, environment.ranks, names.ranks);
  if (names.local_needed || is_set(names.local_rank) || is_set(names.local_ranks)) {
    need(names.local_rank, is_set(names.local_ranks) ? names.local_ranks : names.rank);
    need(names.local_ranks, names.local_rank);
    environment.local_ranks =
        integer(names.local_ranks, 1, environment.ranks, fmt::format(" ({} is {})", names.ranks, environment.ranks));
    environment.local_rank = below(names.local_rank, environment.local_ranks, names.local_ranks);
  } else {
    environment.local_rank =
        environment.rank;  // right on one node, and on nodes filled one after the other (modulo GPUs)
    environment.local_ranks = environment.ranks == 1 ? 1 : 0;
  }
  return environment;
}

/// Slurm's "2(x3),1": 2 ranks on each of 3 nodes, 1 on the next. Their number on this node where all have the same, or
/// 0.
int slurm_local_ranks(int ranks) {
  constexpr const char* kName = "SLURM_STEP_TASKS_PER_NODE";
  if (!is_set(kName)) return text_of("SLURM_NNODES") == "1" ? ranks : 0;
  const std::string text = text_of(kName);
  int common = 0;
  bool equal = true;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view item = std::string_view(text).substr(begin, end - begin);
    const size_t bracket = std::min(item.find("(x"), item.size());
    const std::optional<int> number = parse_int(item.substr(0, bracket));
    bool good = number && *number >= 1;
    if (bracket < item.size()) {
      good = good && item.back() == ')' && parse_int(item.substr(bracket + 2, item.size() - bracket - 3));
    }
    if (!good) {
      throw Error(
          fmt::format("the environment's {} is \"{}\", needs numbers of ranks by node, as in 2(x3),1", kName, text));
    }
    equal = equal && (common == 0 || common == *number);
    common = *number;
    begin = end + 1;
  }
  return equal ? common : 0;
}

RankEnvironment read_slurm() {
  need("SLURM_PROCID", "SLURM_STEP_NUM_TASKS");
  need("SLURM_LOCALID", "SLURM_STEP_NUM_TASKS");
  RankEnvironment environment;
  environment.launcher = "srun";
  environment.mpi = is_set("PMIX_RANK") || is_set("PMI_RANK");
  environment.ranks = count("SLURM_STEP_NUM_TASKS");
  environment.rank = below("SLURM_PROCID", environment.ranks, "SLURM_STEP_NUM_TASKS");
  environment.local_ranks = slurm_local_ranks(environment.ranks);
  environment.local_rank = environment.local_ranks > 0
                               ? below("SLURM_LOCALID", environment.local_ranks, "SLURM_STEP_TASKS_PER_NODE")
                               : below("SLURM_LOCALID", environment.ranks, "SLURM_STEP_NUM_TASKS");
  return environment;
}

/// "host:port" of rank 0, from Dither's own variable or from torchrun's two.
std::string address() {
  const std::string own = text_of("DITHER_ADDRESS");
  if (!own.empty()) {
    if (!star::parse_address(own)) {
      throw Error(
          fmt::format("the environment's DITHER_ADDRESS is \"{}\", needs host:port with a port from 1 to 65535, "
                      "as in node7:29500 or [::1]:29500",
                      own));
    }
    return own;
  }
  if (!is_set("MASTER_ADDR") && !is_set("MASTER_PORT")) return "";
  need("MASTER_ADDR", "MASTER_PORT");
  need("MASTER_PORT", "MASTER_ADDR");
  const std::string host = text_of("MASTER_ADDR");
  if (host.empty()) throw Error("the environment's MASTER_ADDR is \"\", needs the host of rank 0");
  return star::to_string({host, integer("MASTER_PORT", 1, 65535)});
}

RankEnvironment read_launcher() {
  const bool by_srun = is_set("SLURM_STEP_NUM_TASKS");
  if (any_set(kByHand) != nullptr) return read(kByHand);
  if (any_set(kOpenMpi) != nullptr) return read(kOpenMpi);
  if (any_set(kMpich) != nullptr && (!by_srun || is_set(kMpich.local_rank))) return read(kMpich);
  if (by_srun) return read_slurm();
  if (any_set(kTorchrun) != nullptr) return read(kTorchrun);
  return {};
}

}  // namespace

RankEnvironment rank_environment() {
  RankEnvironment environment = read_launcher();
  environment.address = address();
  environment.rendezvous = text_of("DITHER_RENDEZVOUS");
  if (is_set("DITHER_CONNECT_SECONDS")) {
    environment.connect_seconds = integer("DITHER_CONNECT_SECONDS", 1, kMostConnectSeconds);
  }
  return environment;
}

}  // namespace dither
