#!/usr/bin/env bash
# Installs what is missing, builds the program with its tests and runs them all. No GPU is needed.
#
#   scripts/test.sh                       every test
#   scripts/test.sh -R '^numerics[.]'     what follows goes to ctest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

need_packages "${build_packages[@]}" "${test_packages[@]}"
say "build: build/test"
configure test
build test
say "tests"
ctest --preset test "$@"
