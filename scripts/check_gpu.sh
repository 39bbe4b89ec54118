#!/usr/bin/env bash
# Builds the program on a machine with a GPU and checks everything that only a GPU can show: kernels, bits, parity,
# determinism, sanitizers, speed. Needs CUDA, CMake and the packages of scripts/lib.sh but oneDNN and Boost.
#
#   scripts/check_gpu.sh                          every stage; the report is build/gpu/report.json
#   scripts/check_gpu.sh kernels parity           these stages
#   scripts/check_gpu.sh --prefix FOLDER          Debian's packages lie unpacked in FOLDER (a machine without a network)
#   scripts/check_gpu.sh --host build/test        the host in the device's place, with programs built there (CI does this)
#   scripts/check_gpu.sh --list                   the stages, and what each writes into the report
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec python3 scripts/check_gpu/main.py "$@"
