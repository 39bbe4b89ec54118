#!/usr/bin/env bash
# Both commands of the README, scripts/quickstart.sh (20 steps) and scripts/test.sh, on systems on which nothing is
# installed yet: Debian 12, Debian 13 and Ubuntu 24.04, each in a folder of its own (debootstrap, chroot), of the commit
# that is checked out. Needs root, debootstrap, git, and at first the network; hours, where all of it runs.
#
#   sudo scripts/test_bare.sh [--systems debian12,debian13,ubuntu24.04] [--tests all] [--folder build/bare]
#
# On each system
#   - an ordinary user without packages is told what an administrator has to run (while packages are missing)
#   - root: from a clone
#   - an ordinary user without sudo: from a tarball, in a path with spaces, with the packages that root has installed
#   --tests all      both commands for both of them
#   --tests once     test.sh only for the ordinary user
#   --tests none     the quickstart alone
#
# The systems stay in the folder and are taken as they are the next time, without network if they have their packages;
# `rm -rf` one to begin anew. Mounts are seen by this script's processes alone and end with them, however they end.
#   DEBIAN_MIRROR, UBUNTU_MIRROR   where packages come from; else what this system's apt uses, where it is of that kind;
#                                  else debootstrap's own
#   DEBOOTSTRAP_OPTIONS            for example --keyring=FILE: of another distribution than this one's
# http_proxy, CMAKE_* and CCACHE_* are handed on (ccache, installed by hand in a system, shortens the next try).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

declare -A suites=([debian12]=bookworm [debian13]=trixie [ubuntu24.04]=noble)
readonly versions=(g++ cmake libfmt-dev catch2 libopenmpi-dev libdnnl-dev)
systems=debian12,debian13,ubuntu24.04 tests=all folder=build/bare
arguments=("$@")
while [ $# -gt 0 ]; do
  case $1 in
    --systems | --tests | --folder) [ $# -ge 2 ] || fail "$1 needs a value" ;;&
    --systems) systems=$2 ;;
    --tests) tests=$2 ;;
    --folder) folder=$2 ;;
    *) fail "$1 is not an option; allowed: --systems LIST, --tests all, once or none, --folder FOLDER" ;;
  esac
  shift 2
done
IFS=, read -ra systems <<<"$systems"
for system in "${systems[@]}"; do
  [ -n "${suites[$system]:-}" ] || fail "--systems: $system is none of debian12, debian13, ubuntu24.04"
done
[[ $tests =~ ^(all|once|none)$ ]] || fail "--tests is \"$tests\", needs all, once or none"
[ "$(id -u)" -eq 0 ] || fail "needs root, for chroot and mount: sudo $0 ${arguments[*]}"
for program in debootstrap git unshare chroot; do
  command -v $program >/dev/null || fail "there is no $program; Debian/Ubuntu: apt-get install debootstrap git"
done
# Processes and mounts of their own. unshare pays no attention to signals; killed, it takes all of them along.
if [ -z "${DITHER_UNSHARED:-}" ]; then
  DITHER_UNSHARED=1 unshare --mount --propagation private --pid --fork --kill-child "$BASH" "$0" "${arguments[@]}" &
  trap 'kill -KILL $! 2>/dev/null || true' EXIT
  trap 'exit 130' INT TERM HUP
  wait $!
  exit
fi
mkdir -p "$folder"
folder=$(realpath "$folder")
exec 9>"$folder/.lock"
flock --nonblock 9 || fail "another $0 is at work in $folder"
commit=$(git -c safe.directory="$PWD" rev-parse HEAD)
[ -z "$(git -c safe.directory="$PWD" status --porcelain --untracked-files=no)" ] || say "what is not committed is not tested"

# mirror DISTRIBUTION: of debian or ubuntu; nothing where debootstrap shall choose.
mirror() {
  local given=${1^^}_MIRROR
  if [ -n "${!given:-}" ]; then
    echo "${!given}"
  elif grep -qx "ID=$1" /etc/os-release; then
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null |
      sed -nE "s|^(deb .*\|URIs: *)(https?://[^ ]*/$1)/?( .*)?$|\\2|p" | head -1
  fi
}

# bootstrap SYSTEM: makes the system in its folder, unless it is there.
bootstrap() {
  local system=$1 distribution=${1%%[0-9]*} suite=${suites[$1]} script="" made=$folder/$1 words=()
  [ ! -f "$made/.complete" ] || return 0
  say "$system: debootstrap $suite"
  rm -rf "$made"
  if [ "$distribution" = ubuntu ]; then
    words=("--components=main,universe")
    # An older debootstrap does not know a newer Ubuntu, whose script has been the same for years.
    [ -e "/usr/share/debootstrap/scripts/$suite" ] || script=/usr/share/debootstrap/scripts/gutsy
  fi
  local from
  from=$(mirror "$distribution")
  [ -z "$script" ] || from=${from:-http://archive.ubuntu.com/ubuntu}
  # shellcheck disable=SC2086 # several options
  debootstrap --variant=minbase --include=ca-certificates,git "${words[@]}" ${DEBOOTSTRAP_OPTIONS:-} "$suite" "$made" \
    ${from:+"$from"} ${script:+"$script"} >"$folder/$system-debootstrap.log" 2>&1 ||
    { tail -5 "$folder/$system-debootstrap.log" >&2; return 1; }
  chroot "$made" useradd --create-home tester && touch "$made/.complete"
}

# enter SYSTEM USER FOLDER COMMAND...: in the system, as that user, with a fresh environment.
enter() {
  local system=$1 user=$2 place=$3 home=/root name keep=()
  [ "$user" = root ] || home=/home/$user
  for name in $(compgen -e); do
    [[ ! $name =~ ^(https?_proxy|no_proxy|CMAKE_.*|CCACHE_.*)$ ]] || keep+=("$name=${!name}")
  done
  # shellcheck disable=SC2016 # the other shell's
  chroot --userspec="$user:$user" "$folder/$system" /usr/bin/env -i HOME="$home" USER="$user" LANG=C.UTF-8 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "${keep[@]}" \
    bash -c 'cd "$1" && shift && exec "$@"' enter "$place" "${@:4}" </dev/null
}

failed=()
# try TITLE STATUS TEXT SYSTEM USER FOLDER COMMAND...: it must end with that status and print that text.
try() {
  local title=$1 expected=$2 text=$3 begin=$SECONDS status=0 log="$folder/$4-$1.log"
  enter "${@:4}" >"$log" 2>&1 || status=$?
  if [ $status -eq "$expected" ] && grep -q "$text" "$log"; then
    say "$4: $title: $((SECONDS - begin)) s"
  else
    failed+=("$4: $title")
    say "$4: $title: FAILED after $((SECONDS - begin)) s, status $status, no \"$text\"? $log"
    tail -20 "$log"
  fi
}

# check SYSTEM
check() {
  local system=$1 made=$folder/$1 home="/home/tester/a tarball"
  mount -t proc proc "$made/proc"
  mount --rbind /sys "$made/sys"
  mount --rbind /dev "$made/dev"
  mount -t tmpfs -o mode=1777 tmpfs "$made/dev/shm"
  cp /etc/resolv.conf /etc/hosts "$made/etc/"

  rm -rf "$made/opt/dither" "$made$home"
  git -c safe.directory="$PWD" -c safe.directory="$PWD/.git" clone -q "$PWD" "$made/opt/dither"
  git -C "$made/opt/dither" checkout -q "$commit"
  mkdir -p "$made$home"
  git -c safe.directory="$PWD" archive "$commit" | tar -x -C "$made$home"
  chroot "$made" chown -R tester: "$home"

  if ! chroot "$made" dpkg-query -W libdnnl-dev >/dev/null 2>&1; then
    try refusal 2 "an administrator runs: apt-get update" "$system" tester "$home" scripts/quickstart.sh
  fi
  try root-quickstart 0 "^== done" "$system" root /opt/dither scripts/quickstart.sh --set steps=20
  # shellcheck disable=SC2016
  try user-packages 0 there "$system" root /opt/dither bash -c '. scripts/lib.sh; need_packages "${test_packages[@]}"; echo there'
  chroot "$made" dpkg-query -W -f='   ${Package} ${Version}\n' "${versions[@]}" 2>/dev/null || true
  try user-quickstart 0 "^== done" "$system" tester "$home" scripts/quickstart.sh --set steps=20
  for place in /opt/dither "$home"; do
    try "commit of $(basename "$place")" 0 "commit ${commit:0:12}$" "$system" root "$place" build/release/dither --version
  done
  [ "$tests" = none ] || try user-test 0 "^100% tests passed" "$system" tester "$home" scripts/test.sh
  [ "$tests" != all ] || try root-test 0 "^100% tests passed" "$system" root /opt/dither scripts/test.sh
}

for system in "${systems[@]}"; do
  if bootstrap "$system"; then
    check "$system"
  else
    failed+=("$system: debootstrap")
  fi
done
[ ${#failed[@]} -eq 0 ] || printf 'failed: %s\n' "${failed[@]}"
say "${#systems[@]} systems, failed: ${#failed[@]}"
[ ${#failed[@]} -eq 0 ]
