// Which rank of how many this process is, as its launcher says in the environment: mpirun (Open MPI, MPICH), srun, or
// somebody who sets variables by hand (also as torchrun names them).
#pragma once

#include <string>

namespace dither {

struct RankEnvironment {
  int rank = 0, ranks = 1;
  int local_rank = 0;         // among the ranks of this node; `rank` where DITHER_LOCAL_RANK does not say
  int local_ranks = 1;        // on this node; 0: the launcher does not say
  std::string launcher;       // "mpirun", "srun", "environment"; "" : a process by itself
  bool mpi = false;           // MPI can be initialised: ranks were started by a launcher of MPI
  std::string address;        // "host:port" where rank 0 listens; "" : not given
  std::string rendezvous;     // a file that all ranks see, through which rank 0 says where it listens; "" : not given
  int connect_seconds = 120;  // for so long ranks wait for each other; a large job's do not all start at once
};

/// Reads the environment. Looked at in this order, the first that is there wins:
///   DITHER_RANK, DITHER_RANKS [, DITHER_LOCAL_RANK, DITHER_LOCAL_RANKS], and DITHER_ADDRESS or DITHER_RENDEZVOUS
///   OMPI_COMM_WORLD_RANK, .._SIZE, .._LOCAL_RANK, .._LOCAL_SIZE      Open MPI's mpirun
///   PMI_RANK, PMI_SIZE, MPI_LOCALRANKID, MPI_LOCALNRANKS             MPICH's mpirun
///   SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID                srun (not the batch script around it)
///   RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT     torchrun's names
/// MASTER_ADDR and MASTER_PORT, DITHER_ADDRESS, DITHER_RENDEZVOUS and DITHER_CONNECT_SECONDS (1 to 86400) count under
/// every launcher. Throws Error for a variable that is no number, a rank that is not below the number of ranks, or some
/// of a set without the others.
RankEnvironment rank_environment();

}  // namespace dither
