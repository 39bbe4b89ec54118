# shellcheck shell=bash disable=SC2034
# What the scripts share. Source it from the root of the repository: . scripts/lib.sh

readonly build_packages=(g++ cmake ninja-build libdnnl-dev nlohmann-json3-dev libspdlog-dev libfmt-dev libcli11-dev
  libxxhash-dev libopenmpi-dev openmpi-bin)
# What the program and its tests for a GPU need beside CUDA.
readonly gpu_packages=(g++ cmake ninja-build nlohmann-json3-dev libspdlog-dev libfmt-dev libcli11-dev libxxhash-dev catch2)
readonly report_packages=(python3-matplotlib python3-scipy) # of dither compare and dither report
readonly test_packages=(catch2 libboost-context-dev patch "${report_packages[@]}")

say() { echo "== $*"; }

fail() {
  echo "error: $*" >&2
  exit 2
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  else
    command -v sudo >/dev/null || fail "not root and no sudo; run as root: $*"
    sudo "$@"
  fi
}

# need_packages NAME...: installs those that are missing; asks the network for nothing if all are there.
need_packages() {
  local missing=() name
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    say "no apt on this system: needs what Debian calls $*"
    return
  fi
  for name in "$@"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
  done
  [ ${#missing[@]} -eq 0 ] && return
  say "installing ${missing[*]}"
  local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}")
  # The lists of packages are fetched only where they are missing or too old.
  as_root "${install[@]}" >/dev/null 2>&1 && return
  as_root apt-get update -q >/dev/null || fail "apt-get update failed; is the network there?"
  as_root "${install[@]}" >/dev/null || fail "could not install ${missing[*]}"
}

# configure PRESET: silent unless it fails.
configure() {
  local output
  output=$(cmake --preset "$1" 2>&1) || fail "cmake --preset $1 failed:
$output"
}
