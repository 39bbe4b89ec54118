#!/usr/bin/env bash
# Starts several ranks of a command on this machine, without MPI:
#
#   scripts/run_ranks.sh 2 dither train configs/gpt2-124m.json --set parallel.zero_stage=1
#
# The ranks find each other through environment variables and a file (docs/parallel.md). Ends when all have; its status
# is that of the first rank that failed, whose fellows get ten seconds to notice and end by themselves.
set -uo pipefail

if [ $# -lt 2 ] || ! [[ $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: scripts/run_ranks.sh RANKS COMMAND..." >&2
  exit 2
fi
ranks=$1
shift
folder=$(mktemp -d)
pids=()

finish() {
  [ ${#pids[@]} -eq 0 ] || kill -TERM "${pids[@]}" 2>/dev/null
  rm -rf "$folder"
}
trap finish EXIT
trap 'for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null; done' INT TERM # the ranks stop at the same step

for ((rank = 0; rank < ranks; ++rank)); do
  DITHER_RANK=$rank DITHER_RANKS=$ranks DITHER_LOCAL_RANK=$rank DITHER_LOCAL_RANKS=$ranks \
    DITHER_RENDEZVOUS=$folder/rendezvous "$@" &
  pids+=($!)
done

status=0
left=$ranks
while [ "$left" -gt 0 ]; do
  wait -n
  ended=$?
  [ "$ended" -le 128 ] || kill -0 "${pids[@]}" 2>/dev/null || true
  left=$(jobs -rp | wc -l)
  if [ "$ended" -ne 0 ] && [ "$status" -eq 0 ]; then
    status=$ended
    (sleep 10 && kill -KILL "${pids[@]}" 2>/dev/null) &
    disown
  fi
done
pids=()
exit "$status"
