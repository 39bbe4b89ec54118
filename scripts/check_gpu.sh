#!/usr/bin/env bash
# Builds the program on a machine with a GPU and checks everything that only a GPU can show: kernels, bits, parity,
# determinism, sanitizers, speed. Needs CUDA and installs the packages it wants (gpu_packages in scripts/lib.sh).
#
#   scripts/check_gpu.sh                          every stage; the report is build/gpu/report.json
#   scripts/check_gpu.sh kernels parity           these stages
#   scripts/check_gpu.sh --prefix FOLDER          those packages lie unpacked in FOLDER: `dpkg -x PACKAGE.deb FOLDER` of each
#                                                 library, libfmt9 too (a machine without a network)
#   scripts/check_gpu.sh --host build/test        the host in the device's place, with programs built there (CI does this)
#   scripts/check_gpu.sh --list                   the stages, and what each writes into the report
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

case " $* " in
  *" --prefix "* | *" --host "* | *" --list "* | *" --help "* | *" -h "*) ;;
  *) need_packages "${gpu_packages[@]}" ;;
esac
exec python3 scripts/check_gpu/main.py "$@"
