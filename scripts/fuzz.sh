#!/usr/bin/env bash
# Builds the fuzzers and lets each run for a while, two at once, from the committed corpus and from what earlier runs
# found worth keeping (docs/fuzzing.md). Fails if there is a finding; its input is kept under build/fuzz/findings.
#
#   scripts/fuzz.sh [SECONDS [TARGET...]]     60 seconds; safetensors manifest token_shard config
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

seconds=${1:-60}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || fail "SECONDS is \"$seconds\", needs an integer above 0"
targets=("${@:2}")
[ ${#targets[@]} -gt 0 ] || targets=(safetensors manifest token_shard config)
readonly seconds targets build=$PWD/build/fuzz

# Inputs of some kB reach all there is; a header that asks for gigabytes must be refused before they are allocated.
readonly options=(-max_total_time="$seconds" -max_len=8192 -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=256
  -print_final_stats=1)

# fuzz TARGET: writes its log and its status beside the program.
fuzz() {
  local target=$1 words=() status=0
  mkdir -p "$build/corpus/$target" "$build/findings"
  [ ! -f "tests/fuzz/$target.dict" ] || words=(-dict="$PWD/tests/fuzz/$target.dict")
  "$build/tests/fuzz/fuzz_$target" "${options[@]}" "${words[@]}" -artifact_prefix="$build/findings/$target-" \
    "$build/corpus/$target" "$PWD/tests/fuzz/corpus/$target" >"$build/$target.log" 2>&1 </dev/null || status=$?
  echo $status >"$build/$target.status"
}

# figure NAME: from the last line of the log that has it, "cov: 1234" or "stat::average_exec_per_sec:     1234".
figure() { sed -n "s/.*\b$1:* *\([0-9]*\).*/\1/p" "$log" | tail -1; }

need_packages "${build_packages[@]}" clang libclang-rt-dev libomp-dev
say "build: build/fuzz"
configure fuzz
build fuzz

# In memory where there is any: the targets write small files and sync them.
[ ! -w /dev/shm ] || export TMPDIR=/dev/shm
TMPDIR=$(mktemp -d) # what a crash leaves behind goes with it
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

say "${#targets[@]} targets for $seconds s each, two at once"
for target in "${targets[@]}"; do
  [ -x "$build/tests/fuzz/fuzz_$target" ] || fail "no target $target"
  rm -f "$build/$target.status"
done
for target in "${targets[@]}"; do
  while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n; done
  fuzz "$target" &
done
wait

findings=0
printf '%-12s %12s %10s %8s %9s %7s  %s\n' target executions "a second" coverage features corpus result
for target in "${targets[@]}"; do
  log=$build/$target.log status=$(cat "$build/$target.status")
  result="no finding"
  if [ "$status" -ne 0 ]; then
    result="FINDING, status $status: $log" findings=$((findings + 1))
  fi
  printf '%-12s %12s %10s %8s %9s %7s  %s\n' "$target" "$(figure stat::number_of_executed_units)" \
    "$(figure stat::average_exec_per_sec)" "$(figure cov)" "$(figure ft)" "$(figure corp)" "$result"
done
for target in "${targets[@]}"; do
  [ "$(cat "$build/$target.status")" -eq 0 ] || { say "$target"; grep -v '^#' "$build/$target.log" | tail -60; }
done
[ $findings -eq 0 ]
