#!/usr/bin/env bash
# From a fresh clone to a trained model: installs packages, builds, prepares a corpus (the King James Bible), trains a
# small Llama in BF16 with stochastic rounding, evaluates it, lets it write, and plots its loss.
#
#   scripts/quickstart.sh                      on Debian 12 or newer, Ubuntu 24.04 or newer
#   scripts/quickstart.sh --text FILE          on a text of your own instead of the Bible: a megabyte or more
#   scripts/quickstart.sh --set steps=100      what follows goes to `dither train` (any key but name)
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

text=
arguments=() # of dither train
while [ $# -gt 0 ]; do
  case $1 in
    --text=*) set -- --text "${1#*=}" "${@:2}" ;;
    --text)
      [[ -f ${2:-} && -r $2 ]] || fail "--text ${2:-}: needs a file that can be read"
      text=$(realpath -- "$2")
      shift 2
      ;;
    *)
      arguments+=("$1")
      shift
      ;;
  esac
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dither=build/release/dither
run=runs/quickstart
data=data/quickstart
prompt=(--prompt "And it came to pass")
if [ -n "$text" ]; then # a folder of its own for each text
  data=data/quickstart-$(cksum <"$text" | cut -d' ' -f1)
  prompt=()
  arguments=(--set "data.train=$data/train_*.bin" --set "data.validation=$data/val_*.bin" "${arguments[@]}")
fi

say "1/6 packages"
need_writable build/release "$run"
[ -f "$data/tokenizer.bin" ] || need_writable "$data"
packages=("${build_packages[@]}" "${report_packages[@]}")
if [ -n "$text" ] || [ -f "$data/tokenizer.bin" ] || find_bible; then
  need_packages "${packages[@]}"
else
  package_hint=$bible_hint need_packages "${packages[@]}" bible-kjv
  need_bible
fi

say "2/6 build: build/release"
configure release
build release

say "3/6 corpus: $data"
scripts/prepare_quickstart.sh "$data" "$dither" "$text"

# Threads that wait go to sleep early: 1 to 2 % slower on an idle machine, twice as fast beside other programs.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-2000}

say "4/6 training: configs/quickstart.json (Ctrl-C ends it early and keeps the weights)"
"$dither" train configs/quickstart.json --overwrite "${arguments[@]}"

say "5/6 the whole validation set, and a sample"
"$dither" evaluate "$run"
echo
"$dither" sample "$run" "${prompt[@]}" --tokens 256

say "6/6 plot"
python=/usr/bin/python3 # apt's own: another python3 earlier in PATH does not see python3-matplotlib
[ -x "$python" ] || python=python3
plot=$PWD/$run/loss.png
if "$python" -c 'import matplotlib' 2>/dev/null; then
  "$python" scripts/plot_run.py "$run" >/dev/null
else
  plot="none: $python has no matplotlib"
fi

say "done"
echo "run folder  $PWD/$run"
echo "loss plot   $plot"
echo "next        $dither sample $run --prompt 'In the beginning'; $dither --help; README.md"
