# shellcheck shell=bash disable=SC2034
# What the scripts share. Source it from the root of the repository: . scripts/lib.sh

readonly build_packages=(g++ cmake ninja-build libdnnl-dev nlohmann-json3-dev libfmt-dev libcli11-dev
  libxxhash-dev libopenmpi-dev openmpi-bin)
# What the program and its tests for a GPU need beside CUDA.
readonly gpu_packages=(g++ cmake ninja-build nlohmann-json3-dev libfmt-dev libcli11-dev libxxhash-dev catch2)
readonly report_packages=(python3-matplotlib python3-scipy) # of dither compare and dither report
readonly test_packages=(catch2 libboost-context-dev patch "${report_packages[@]}")

readonly bible_hint="a text of your own in place of bible-kjv: scripts/quickstart.sh --text FILE"
readonly compiler_kb=$((1 << 20)) # memory of one compiler at most: 1 GB
readonly least_cmake=3.25
proc=/proc cgroups=/sys/fs/cgroup # where Linux says what there is; tests change them

say() { echo "== $*"; }

fail() {
  echo "error: $*" >&2
  exit 2
}

user_name() { id -un 2>/dev/null || true; }

# become_root WHY...: leaves in `as_root` the words before a command that make it run as root. Where that cannot be, says
# what an administrator has to run (`install`) and what else helps.
become_root() {
  as_root=()
  [ "$(id -u)" -ne 0 ] || return 0
  local why
  ! command -v sudo >/dev/null || say "asking sudo whether packages may be installed"
  if ! command -v sudo >/dev/null; then
    why="you are not root and there is no sudo"
  elif why=$(sudo env apt-get --version 2>&1 >/dev/null); then
    as_root=(sudo)
    return 0
  else
    why="sudo refuses: ${why##*$'\n'}" # its last line
  fi
  fail "$*; $why
       cure: an administrator runs: apt-get update && $install
       or, where you have them from elsewhere: DITHER_SKIP_PACKAGES=1 in the environment${package_hint:+
       or: $package_hint}"
}

# apt_get WORD...: silent; what it says of errors, one a line, is left in `complaints`. Another apt at work is waited for.
apt_get() {
  local output
  output=$("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@" 2>&1) && return
  complaints+=$(sed -n 's/^\(E:\|Err:\|sudo:\)/\n       \1/p' <<<"$output")
  return 1
}

# need_packages NAME...: installs those that are missing; asks the network for nothing if all are there. `package_hint`,
# where it is set, is another cure.
need_packages() {
  local missing=() name as_root complaints="" install
  if [ -n "${DITHER_SKIP_PACKAGES:-}" ]; then
    say "DITHER_SKIP_PACKAGES is set: packages are not looked for"
    return
  fi
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    say "no apt on this system: needs what Debian calls $*"
    return
  fi
  for name in "$@"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
  done
  [ ${#missing[@]} -eq 0 ] && return
  install="apt-get install -y --no-install-recommends ${missing[*]}"
  become_root "missing packages: ${missing[*]}"
  say "installing ${missing[*]}"
  # The lists of packages are fetched only where they are missing or too old. Some of them may fail: others may do.
  apt_get install -y --no-install-recommends "${missing[@]}" && return
  complaints=""
  apt_get update || true
  apt_get install -y --no-install-recommends "${missing[@]}" || fail "apt-get could not install ${missing[*]}:$complaints
       cure: what apt-get complains of; then this script again${package_hint:+
       or: $package_hint}"
}

# need_bible: the program `bible` is on the PATH.
need_bible() {
  find_bible || fail "there is no program \"bible\" (Debian's bible-kjv), whose text the quickstart trains on
       cure: $bible_hint"
}
find_bible() {
  PATH=$PATH:/usr/games # where Debian puts it
  command -v bible >/dev/null
}

# number FILE: the number in it, or nothing: no such file, or "max".
number() {
  local word=""
  [ ! -r "$1" ] || read -r word _ <"$1" || true
  [[ ! $word =~ ^[0-9]+$ ]] || echo "$word"
}

# cgroup_folders CONTROLLER: the folders of this process's control group and of all above it, of versions 1 and 2.
cgroup_folders() {
  local names path root
  [ -r "$proc/self/cgroup" ] || return 0
  while IFS=: read -r _ names path; do
    case ,$names, in
      ,,) root=$cgroups ;;
      *,"$1",*) root=$cgroups/$1 ;;
      *) continue ;;
    esac
    path=${path%/}
    while echo "$root$path" && [ -n "$path" ]; do path=${path%/*}; done
  done <"$proc/self/cgroup"
}

# build_jobs: how many compilers to start: one a core, and no more than fit into the memory that is free here, in a
# container too. CMAKE_BUILD_PARALLEL_LEVEL, CMake's own variable, overrules it.
build_jobs() {
  local jobs free folder limit used cached period
  if [ -n "${CMAKE_BUILD_PARALLEL_LEVEL:-}" ]; then
    echo "$CMAKE_BUILD_PARALLEL_LEVEL"
    return
  fi
  jobs=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
  while read -r folder; do
    limit=$(number "$folder/cpu.max") period=$(sed 's/.* //' "$folder/cpu.max" 2>/dev/null || true) # version 2
    limit=${limit:-$(number "$folder/cpu.cfs_quota_us")} period=${period:-$(number "$folder/cpu.cfs_period_us")}
    [ -z "$limit" ] || [ $(((limit + period - 1) / period)) -ge "$jobs" ] || jobs=$(((limit + period - 1) / period))
  done < <(cgroup_folders cpu)
  free=$(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' "$proc/meminfo" 2>/dev/null || true)
  while read -r folder; do
    limit=$(number "$folder/memory.max") used=$(number "$folder/memory.current") cached=inactive_file # version 2
    [ -n "$limit" ] || {
      limit=$(number "$folder/memory.limit_in_bytes") used=$(number "$folder/memory.usage_in_bytes") cached=total_inactive_file
    }
    [ -n "$limit" ] || continue
    cached=$(sed -n "s/^$cached //p" "$folder/memory.stat" 2>/dev/null || true) # what gives way
    limit=$(((limit - ${used:-0} + ${cached:-0}) / 1024))
    [ "$limit" -ge "${free:-$((limit + 1))}" ] || free=$limit
  done < <(cgroup_folders memory)
  [ -z "$free" ] || [ $((free / compiler_kb)) -ge "$jobs" ] || jobs=$((free / compiler_kb))
  [ "$jobs" -ge 1 ] || jobs=1
  echo "$jobs"
}

# need_writable PATH...: in this tree; what there is of each can be written by this user, or it can be made.
need_writable() {
  local path found
  for path in "$@"; do
    if [ -e "$path" ]; then
      found=$(find -H "$path" ! -type l ! -writable -print -quit)
    else
      found=$path
      while [ ! -e "$found" ]; do found=$(dirname "$found"); done
    fi
    [ -z "$found" ] || [ -w "$found" ] || fail "$(realpath "$found") cannot be written by $(user_name) (it belongs to $(stat -c %U "$found"))
       cures: a copy of your own: cp -r '$PWD' ~/dither && rm -rf ~/dither/build$(
      [ "$(id -u)" -eq 0 ] || echo "; or, as root: chown -R $(id -u) '$PWD'"
    )"
  done
}

# configure PRESET [OPTION...]: silent unless it fails. What CMake would say at length is said here in a line.
configure() {
  local output version before cache=build/$1/CMakeCache.txt
  command -v cmake >/dev/null || fail "there is no cmake; needs $least_cmake or newer"
  version=$(cmake --version | sed -n 's/^cmake version \([0-9.]*\).*/\1/p') || fail "cmake --version fails"
  [ "$(printf '%s\n' "$least_cmake" "$version" | sort -V | head -1)" = "$least_cmake" ] ||
    fail "cmake is $version, needs $least_cmake or newer: Debian 12, Ubuntu 24.04, or: pip install cmake"
  need_writable "build/$1"
  if [ -f "$cache" ]; then
    before=$(sed -n 's/^CMAKE_HOME_DIRECTORY:INTERNAL=//p' "$cache")
    [ "$before" -ef . ] || fail "build/$1 was made for the sources in $before, not for these in $PWD: they were moved or copied
       cure: rm -rf '$PWD/build/$1'; then this script again"
  fi
  output=$(cmake --preset "$@" 2>&1) || fail "cmake --preset $* failed:
$output"
}

# build PRESET [OPTION...]: everything that configure() has prepared.
build() { cmake --build --preset "$1" --parallel "$(build_jobs)" "${@:2}"; }
