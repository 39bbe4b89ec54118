#!/usr/bin/env bash
# From a fresh clone to a trained model: installs packages, builds, prepares a corpus (the King James Bible), trains a
# small Llama in BF16 with stochastic rounding, evaluates it, lets it write, and plots its loss.
#
#   scripts/quickstart.sh                      on Debian 12, Ubuntu 24.04 or newer
#   scripts/quickstart.sh --set steps=100      what follows goes to `dither train` (any key but name)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

dither=build/release/dither
run=runs/quickstart

say "1/6 packages"
need_packages "${build_packages[@]}" "${report_packages[@]}" bible-kjv

say "2/6 build: build/release"
configure release
cmake --build --preset release --parallel "$(nproc)"

say "3/6 corpus: data/quickstart"
scripts/prepare_quickstart.sh data/quickstart "$dither"

# Threads that wait go to sleep early: 1 to 2 % slower on an idle machine, twice as fast beside other programs.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-2000}

say "4/6 training: configs/quickstart.json (Ctrl-C ends it early and keeps the weights)"
"$dither" train configs/quickstart.json --overwrite "$@"

say "5/6 the whole validation set, and a sample"
"$dither" evaluate "$run" --batches 0
echo
"$dither" sample "$run" --prompt "And it came to pass" --tokens 256

say "6/6 plot"
python=/usr/bin/python3 # apt's own: another python3 earlier in PATH does not see python3-matplotlib
[ -x "$python" ] || python=python3
"$python" scripts/plot_run.py "$run" >/dev/null

say "done"
echo "run folder  $PWD/$run"
echo "loss plot   $PWD/$run/loss.png"
echo "next        $dither sample $run --prompt 'In the beginning'; $dither --help; README.md"
