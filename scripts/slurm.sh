#!/usr/bin/env bash
# Trains on the nodes of a Slurm cluster, one rank a GPU:
#
#   sbatch --nodes=4 scripts/slurm.sh configs/gpt2-124m.json --set parallel.zero_stage=2
#   sbatch --nodes=4 --export=ALL,DITHER_LAUNCH=pmix scripts/slurm.sh configs/gpt2-124m.json
#   sbatch --nodes=2 --gpus-per-node=0 --export=ALL,DITHER_LAUNCH=pmix scripts/slurm.sh CONFIG --set device=cpu
#
# Submit from the root of the repository, on a file system that all nodes share. What follows goes to `dither train`.
#   DITHER          the program (build/release/dither)
#   DITHER_LAUNCH   none: srun alone; ranks meet at MASTER_ADDR, GPUs talk by NCCL, no MPI is needed
#                   pmix, pmi2: srun as the launcher of an MPI that was built with it; CPU ranks on several nodes need this
#
# Notes, line by line. An option given to sbatch overrules the one here.
#   ntasks-per-node, gpus-per-node   equal: one rank a GPU. No --gpus-per-task and no --gpu-bind: each rank sees all GPUs
#                                    of its node and takes the one of its local rank; where it sees one alone, NCCL may
#                                    not reach the neighbours' memory and goes through the host.
#   distribution                     consecutive ranks on a node: what parallel.shard_group_size counts on.
#   cpus-per-task                    cores for the loader and NCCL's threads. With device cpu they compute: the script
#                                    sets parallel.threads to them.
#   signal                           SIGUSR1 to all ranks five minutes before the time is up: they finish the step at
#                                    hand and write checkpoint and weights. More, where a step or the writing takes
#                                    longer. Submitted again, the run goes on, also on another number of nodes.
#   kill-on-bad-exit                 once a rank has failed, Slurm ends what Dither has not ended already.
#SBATCH --job-name=dither
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@300
#SBATCH --output=slurm-%j.txt
set -euo pipefail

if [ $# -lt 1 ] || [ -z "${SLURM_JOB_ID:-}" ]; then
  echo "usage: sbatch [--nodes=N] scripts/slurm.sh CONFIG [--set key=value]..." >&2
  exit 2
fi
launch=${DITHER_LAUNCH:-none}
case $launch in
  none | pmix | pmi2) ;;
  *)
    echo "error: DITHER_LAUNCH is \"$launch\", needs none, pmix or pmi2" >&2
    exit 2
    ;;
esac

# Rank 0 runs on the first node of the list. The port: unlike that of another job on the same node, and below 32768,
# where the system begins to give out ports by itself.
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST") # one a line
MASTER_ADDR=${nodes%%$'\n'*}
MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT
export OMP_WAIT_POLICY=passive # threads that wait leave their cores to NCCL's

echo "job $SLURM_JOB_ID: $SLURM_JOB_NUM_NODES nodes, rank 0 at $MASTER_ADDR:$MASTER_PORT, srun --mpi=$launch"
exec srun --mpi="$launch" --distribution=block:block --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=1 \
  "${DITHER:-build/release/dither}" train "$1" --set parallel.threads="${SLURM_CPUS_PER_TASK:-1}" "${@:2}"
