#!/usr/bin/env bash
# Starts several ranks of a command on this machine, without MPI:
#
#   scripts/run_ranks.sh 2 dither train configs/gpt2-124m.json --set parallel.zero_stage=1
#
# The ranks find each other through environment variables and a file (docs/parallel.md). Ends when all have, with the
# highest status of a rank (128 + n: ended by signal n), so that of the rank that died is not hidden by the 2 of those
# that noticed; each failure is named on stderr. Once a rank has failed the others have seven seconds to notice and end
# by themselves, which takes them five at most; then they are killed.
#
# SIGINT, SIGTERM and SIGHUP go on to the ranks as SIGTERM: they stop after the same step, with checkpoint and weights
# written. A terminal's Ctrl-C reaches them by itself too, which is why it goes on under another name: a second Ctrl-C,
# more than a second after the first, kills.
# SIGUSR1 goes on as it is: it stops them too, or only asks for a checkpoint (checkpoint.on_signal).
set -uo pipefail

readonly patience=7 # seconds

if [ $# -lt 2 ] || ! [[ $1 =~ ^[1-9][0-9]{0,4}$ ]]; then
  echo "usage: scripts/run_ranks.sh RANKS COMMAND..., RANKS from 1 to 99999" >&2
  exit 2
fi
readonly ranks=$1
shift
folder=$(mktemp -d) || exit 2
declare -A rank_of=() # process to rank, of those that run

to_ranks() { [ ${#rank_of[@]} -eq 0 ] || kill "-$1" "${!rank_of[@]}"; }

# shellcheck disable=SC2317 # called by the trap
finish() {
  to_ranks KILL # none is left, unless this script fails
  rm -rf "$folder"
}
trap finish EXIT
trap 'to_ranks TERM' INT TERM HUP
trap 'to_ranks USR1' USR1

for ((rank = 0; rank < ranks; ++rank)); do
  DITHER_RANK=$rank DITHER_RANKS=$ranks DITHER_LOCAL_RANK=$rank DITHER_LOCAL_RANKS=$ranks \
    DITHER_RENDEZVOUS=$folder/rendezvous "$@" &
  rank_of[$!]=$rank
done
exec 3>&2 2>/dev/null # the shell's own "Killed" names the command, not the rank

# Asks for every rank in turn: `wait -n` misses a process that ends while nobody waits.
status=0
deadline= # when ranks that are left are killed
while [ ${#rank_of[@]} -gt 0 ]; do
  for process in "${!rank_of[@]}"; do
    kill -0 "$process" && continue
    wait "$process"
    ended=$?
    rank=${rank_of[$process]}
    unset "rank_of[$process]"
    [ "$ended" -ne 0 ] || continue
    if [ "$ended" -gt 128 ]; then
      echo "run_ranks.sh: rank $rank (pid $process) was ended by SIG$(kill -l "$ended")" >&3
    else
      echo "run_ranks.sh: rank $rank (pid $process) ended with status $ended" >&3
    fi
    : "${deadline:=$((SECONDS + patience))}"
    # What this script has killed is no rank's failure.
    [ "$SECONDS" -ge "$deadline" ] || [ "$ended" -le "$status" ] || status=$ended
  done
  [ -z "$deadline" ] || [ "$SECONDS" -lt "$deadline" ] || to_ranks KILL
  [ ${#rank_of[@]} -eq 0 ] || sleep 0.05
done
exit "$status"
