#!/usr/bin/env bash
# The corpus of the quickstart, one token a byte: the King James Bible (public domain, 4.1 MB of English), from a
# Debian/Ubuntu package and with no other download, or a text of one's own.
#
#   scripts/prepare_quickstart.sh OUTPUT_FOLDER DITHER_BINARY [TEXT_FILE]
#
# Leaves train_000000.bin, val_000000.bin (the last 5 %) and tokenizer.bin in OUTPUT_FOLDER. Does nothing if they are
# there: tokenizer.bin is written last, so it stands for all of them.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

readonly least_bytes=4000000 # the whole text has 4,137,850 bytes; less means that `bible` printed something else

[ $# -eq 2 ] || [ $# -eq 3 ] || fail "usage: $0 OUTPUT_FOLDER DITHER_BINARY [TEXT_FILE]"
output=$1
dither=$2
text=${3:-}

if [ -f "$output/tokenizer.bin" ]; then
  echo "corpus: $output (there already)"
  exit 0
fi
command -v "$dither" >/dev/null || fail "$dither: no such program; build it first (cmake --preset release)"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if [ -z "$text" ]; then
  find_bible || package_hint=$bible_hint need_packages bible-kjv
  need_bible
  text=$scratch/kjv.txt
  # Each line begins with its verse's number ("Ge1:1 "), which is not text.
  bible -f gen1:1-rev22:21 </dev/null | cut -d' ' -f2- >"$text"
  bytes=$(wc -c <"$text")
  [ "$bytes" -ge "$least_bytes" ] || fail "'bible -f gen1:1-rev22:21' gave $bytes bytes, expected 4137850"
fi

"$dither" tokenize --text "$text" --output "$output" --validation-fraction 0.05
