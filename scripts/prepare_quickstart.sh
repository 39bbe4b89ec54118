#!/usr/bin/env bash
# The corpus of the quickstart: the King James Bible (public domain, 4.1 MB of English), from a Debian/Ubuntu package
# and with no other download, one token a byte.
#
#   scripts/prepare_quickstart.sh OUTPUT_FOLDER DITHER_BINARY
#
# Leaves train_000000.bin, val_000000.bin (the last 5 %) and tokenizer.bin in OUTPUT_FOLDER. Does nothing if they are
# there: tokenizer.bin is written last, so it stands for all of them.
set -euo pipefail

readonly least_bytes=4000000 # the whole text has 4,137,850 bytes; less means that `bible` printed something else

fail() {
  echo "prepare_quickstart: error: $*" >&2
  exit 2
}

install_bible() {
  command -v apt-get >/dev/null || fail "there is no 'bible' and no apt-get; install Debian's bible-kjv by hand"
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "run 'apt-get install bible-kjv' as root: the quickstart's text comes from it"
    as_root=(sudo)
  fi
  echo "installing the package bible-kjv (2.5 MB): the text of the quickstart"
  # Lists that are missing or old are fetched only if the package is not found without.
  "${as_root[@]}" apt-get install -y -q --no-install-recommends bible-kjv >/dev/null 2>&1 ||
    { "${as_root[@]}" apt-get update -q >/dev/null &&
      "${as_root[@]}" apt-get install -y -q --no-install-recommends bible-kjv >/dev/null; } ||
    fail "apt-get could not install bible-kjv; is the network there?"
}

[ $# -eq 2 ] || fail "usage: $0 OUTPUT_FOLDER DITHER_BINARY"
output=$1
dither=$2

if [ -f "$output/tokenizer.bin" ]; then
  echo "corpus: $output (there already)"
  exit 0
fi
command -v "$dither" >/dev/null || fail "$dither: no such program; build it first (cmake --preset release)"
command -v bible >/dev/null || PATH=$PATH:/usr/games
command -v bible >/dev/null || install_bible

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# Each line begins with its verse's number ("Ge1:1 "), which is not text.
bible -f gen1:1-rev22:21 </dev/null | cut -d' ' -f2- >"$scratch/kjv.txt"
bytes=$(wc -c <"$scratch/kjv.txt")
[ "$bytes" -ge "$least_bytes" ] || fail "'bible -f gen1:1-rev22:21' gave $bytes bytes, expected 4137850"

"$dither" tokenize --text "$scratch/kjv.txt" --output "$output" --validation-fraction 0.05
