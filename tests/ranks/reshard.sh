#!/usr/bin/env bash
# A checkpoint of some ranks, resumed by others: reshard.sh PROGRAM SAVING RESUMING [OPTION...], with
# tests/ranks/resume_test.cpp; the options go to the program.
set -euo pipefail

readonly program=$1 saving=$2 resuming=$3 options=("${@:4}")
readonly start=${BASH_SOURCE[0]%/*}/../../scripts/run_ranks.sh

DITHER_RESHARD_FOLDER=$(mktemp -d)
export DITHER_RESHARD_FOLDER
trap 'rm -rf "$DITHER_RESHARD_FOLDER"' EXIT

"$start" "$saving" "$program" "${options[@]}" "reshard: save"
"$start" "$resuming" "$program" "${options[@]}" "reshard: resume"
