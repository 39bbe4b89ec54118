#!/usr/bin/env bash
# The laws of scripts/lib.sh and of the scripts that use it, on systems made up for it: a PATH that has stand-ins for
# id, sudo, dpkg-query, apt-get and cmake, and folders in place of /proc and /sys/fs/cgroup. Nothing is installed.
#
#   scripts_test.sh SOURCE_FOLDER LAW        the function of that name below
set -euo pipefail
source=$1
unset CMAKE_BUILD_PARALLEL_LEVEL DITHER_SKIP_PACKAGES
folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
bin=$folder/bin tree="$folder/a tree"
mkdir -p "$bin" "$tree"
cp -r "$source/scripts" "$source/configs" "$tree/"
cd "$tree"

# What the scripts may find: these programs, and what a law adds.
for name in bash sh env cat cut sed find dirname sort head printf nproc stat realpath cksum mktemp rm wc grep; do
  ln -s "$(command -v $name)" "$bin/$name"
done

# program NAME: its text comes from stdin. What was there is removed first: it may be a link to the system's own.
program() {
  rm -f "$bin/$1"
  { echo '#!/bin/bash'; cat; } >"$bin/$1"
  chmod +x "$bin/$1"
}

# system USER_NUMBER: Debian, with no package installed; apt-get works, and leaves in `installed` that it did.
system() {
  program id <<<"if [ \"\$1\" = -u ]; then echo $1; else echo user; fi"
  program dpkg-query <<<'exit 1'
  program apt-get <<<"case \"\$*\" in *install*) echo \"\$*\" >>'$folder/installed' ;; esac"
}

# run STATUS COMMAND...: it must end with that status, and say all of that in `said`.
run() {
  local expected=$1 status=0
  shift
  said=$(PATH=$bin "$@" 2>&1) || status=$?
  [ "$status" -eq "$expected" ] || wrong "status $status, not $expected: $*"
}

has() { [[ $said == *"$1"* ]] || wrong "does not say \"$1\""; }
lacks() { [[ $said != *"$1"* ]] || wrong "says \"$1\""; }
equals() { [ "$said" = "$1" ] || wrong "is not \"$1\""; }

wrong() {
  printf 'line %s: %s\n%s\n' "${BASH_LINENO[1]}" "$1" "$said" >&2
  exit 1
}

# lib COMMAND...: in a shell that has scripts/lib.sh, with the made-up folders.
lib() { run 0 bash -c "set -euo pipefail; . scripts/lib.sh; proc='$folder/proc' cgroups='$folder/cgroup'; $*"; }

# Catches: a status of 2 and no word, packages named one by one in several tries, the network blamed.
law_without_root_and_sudo_the_line_for_an_administrator_is_printed() {
  system 1000
  local script
  for script in quickstart test check_gpu; do
    run 2 "scripts/$script.sh"
    has "you are not root and there is no sudo"
    has "an administrator runs: apt-get update && apt-get install -y --no-install-recommends g++ cmake "
    lacks network
  done
  run 2 scripts/quickstart.sh
  has " python3-scipy bible-kjv"
  has "scripts/quickstart.sh --text FILE"
  program dither <<<'exit 0'
  run 2 scripts/prepare_quickstart.sh out dither
  has "apt-get install -y --no-install-recommends bible-kjv"
  [ ! -e "$folder/installed" ]
}

# Catches: what sudo says thrown away, the network blamed, apt-get tried all the same.
law_a_sudo_that_refuses_is_quoted() {
  system 1000
  program sudo <<<'echo "user is not in the sudoers file." >&2; exit 1'
  run 2 scripts/test.sh
  has "sudo refuses: user is not in the sudoers file."
  has "an administrator runs: apt-get update && apt-get install -y --no-install-recommends g++ "
  lacks network
  [ ! -e "$folder/installed" ]
}

# Catches: packages that are installed by a user who may not, sudo for root, a failure of apt-get that nobody sees.
law_packages_are_installed_as_root() {
  system 1000
  # shellcheck disable=SC2016 # the stand-in's own
  program sudo <<<"echo sudo >>'$folder/installed'; \"\$@\""
  lib need_packages one two
  [ "$(cat "$folder/installed")" = "sudo
sudo
-q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends one two" ]
  rm "$folder/installed" "$bin/sudo"
  system 0
  lib need_packages one two
  [ "$(wc -l <"$folder/installed")" -eq 1 ]
  program apt-get <<<'echo "Reading"; echo "E: Unable to locate package one"; exit 100'
  run 2 bash -c '. scripts/lib.sh; need_packages one two'
  has "could not install one two:
       E: Unable to locate package one"
  lacks Reading
  lacks network
  run 0 env DITHER_SKIP_PACKAGES=1 bash -c '. scripts/lib.sh; need_packages one two'
  program dpkg-query <<<'echo installed' # then nothing is asked for
  rm "$bin/apt-get"
  program apt-get <<<'exit 1'
  lib need_packages one two
  equals ""
}

# Catches: a missing text that is noticed after the build, a text of one's own that still wants the Bible.
law_the_text_of_the_quickstart_is_there_before_the_build() {
  system 1000
  rm "$bin/dpkg-query" # a system without apt
  # shellcheck disable=SC2016
  program cmake <<<'echo "cmake version 3.25.1"; [ "$1" = --version ]' # fails where it is to build
  PATH=$bin command -v bible >/dev/null || [ -x /usr/games/bible ] || {
    run 2 scripts/quickstart.sh
    has 'there is no program "bible"'
    has "--text FILE"
    lacks "2/6"
  }
  echo text >mine.txt
  run 2 scripts/quickstart.sh --set steps=1 --text mine.txt
  has "2/6 build"
  lacks bible
  run 2 scripts/quickstart.sh --text nowhere.txt
  has "--text nowhere.txt: needs a file"
}

# Catches: CMake's own lines for these, a tree that is called moved because it is reached through a link.
law_a_tree_that_cannot_be_built_in_gets_one_line() {
  system 1000
  # shellcheck disable=SC2016
  program cmake <<<'[ "$1" = --version ] && echo "cmake version ${VERSION:-3.25.1}"; exit 0'
  mkdir -p build/test
  echo "CMAKE_HOME_DIRECTORY:INTERNAL=$tree" >build/test/CMakeCache.txt
  lib configure test
  ln -s "$tree" "$folder/link"
  echo "CMAKE_HOME_DIRECTORY:INTERNAL=$folder/link" >build/test/CMakeCache.txt
  lib configure test
  echo "CMAKE_HOME_DIRECTORY:INTERNAL=/elsewhere" >build/test/CMakeCache.txt
  run 2 bash -c '. scripts/lib.sh; configure test'
  has "build/test was made for the sources in /elsewhere, not for these in $tree"
  has "cure: rm -rf '$tree/build/test'"
  run 2 env VERSION=3.22.1 bash -c '. scripts/lib.sh; configure test'
  has "cmake is 3.22.1, needs 3.25 or newer"

  local as_user=() # root may write anywhere
  [ "$(id -u)" -ne 0 ] || as_user=("$(command -v setpriv)" --reuid=65534 --regid=65534 --clear-groups)
  chmod 755 "$folder"
  chmod 555 build/test
  run 2 "${as_user[@]}" bash -c '. scripts/lib.sh; configure test'
  has "$tree/build/test"
  has "cannot be written by user (it belongs to "
  has "cures: a copy of your own"
}

# Catches: hard-wired jobs, limits of version 1 or of version 2 unseen, the group's own limit looked at and not its
# parents', files in memory that count as used, cores that a quota does not give, no job at all.
law_as_many_compilers_as_cores_and_memory_allow() {
  local gb=$((1 << 30))
  program nproc <<<'echo 16'
  mkdir -p "$folder/proc/self" "$folder/cgroup/a/b"
  lib build_jobs
  equals 16
  echo "MemAvailable:   $((5 * gb / 1024 + 7)) kB" >"$folder/proc/meminfo"
  lib build_jobs
  equals 5
  echo "MemAvailable:   100 kB" >"$folder/proc/meminfo"
  lib build_jobs
  equals 1
  run 0 env CMAKE_BUILD_PARALLEL_LEVEL=3 bash -c '. scripts/lib.sh; build_jobs'
  equals 3

  echo "MemAvailable: $((100 * gb / 1024)) kB" >"$folder/proc/meminfo"
  echo "0::/a/b" >"$folder/proc/self/cgroup"
  echo max >"$folder/cgroup/a/b/memory.max"
  echo $((8 * gb)) >"$folder/cgroup/a/memory.max"
  echo $((3 * gb)) >"$folder/cgroup/a/memory.current"
  echo "inactive_file $((2 * gb))" >"$folder/cgroup/a/memory.stat"
  lib build_jobs
  equals 7
  echo "max 100000" >"$folder/cgroup/a/b/cpu.max"
  lib build_jobs
  equals 7
  echo "250000 100000" >"$folder/cgroup/a/cpu.max"
  lib build_jobs
  equals 3

  rm -r "$folder/cgroup"
  mkdir -p "$folder/cgroup/memory" "$folder/cgroup/cpu"
  printf '4:memory:/not/seen/in/here\n3:cpu,cpuacct:/\n0::/\n' >"$folder/proc/self/cgroup"
  echo $((4 * gb)) >"$folder/cgroup/memory/memory.limit_in_bytes"
  echo 0 >"$folder/cgroup/memory/memory.usage_in_bytes"
  lib build_jobs
  equals 4
  echo -1 >"$folder/cgroup/cpu/cpu.cfs_quota_us"
  echo 100000 >"$folder/cgroup/cpu/cpu.cfs_period_us"
  lib build_jobs
  equals 4
  echo 200000 >"$folder/cgroup/cpu/cpu.cfs_quota_us"
  lib build_jobs
  equals 2
}

# Catches: "unknown" for a tarball that knows better, a commit of the repository around it, git's refusal of a tree that
# belongs to someone else taken for no git, a hand-in that is ignored without a word.
law_the_commit_is_known_without_git() {
  local digits=0123456789abcdef0123456789abcdef01234567 known git
  cp -r "$source/cmake" "$source/.gitattributes" .
  commit() { # commit GIT [HANDED_IN]: what the build is told
    said=$(cmake "-DGIT=$1" "-DSOURCES=$PWD" "-DHANDED_IN=${2:-}" "-DOUTPUT=$folder/commit.cpp" -P "$source/cmake/commit.cmake" 2>&1)
    said+=$(sed -n 's/.*return "\(.*\)".*/\1/p' "$folder/commit.cpp")
  }
  # shellcheck disable=SC2016
  echo '$Format:%H$' >cmake/archive_commit.txt
  commit ""; equals unknown
  commit "" $digits; equals "${digits:0:12}"
  commit "" "$digits+changes"; equals "${digits:0:12}+changes"
  echo $digits >cmake/archive_commit.txt
  commit ""; equals "${digits:0:12}"
  commit "" ffffffffffff; equals ffffffffffff
  # shellcheck disable=SC2016
  echo '$Format:%H$' >cmake/archive_commit.txt

  git=$(command -v git) || return 0
  git init -q .; git add .
  git -c user.name=a -c user.email=a@b commit -q --no-verify -m one
  known=$(git rev-parse HEAD)
  commit "$git"; equals "${known:0:12}"
  commit "$git" "$digits"; has "is not used: git says ${known:0:12}"; has "${known:0:12}"
  mkdir unpacked
  git archive HEAD | tar -x -C unpacked
  cd unpacked
  commit "$git"; equals "${known:0:12}" # in the repository of something else
  cd ..
  [ "$(id -u)" -ne 0 ] || chown -R 65534 .
  rm -r unpacked
  commit "$git"; equals "${known:0:12}"
}

"law_$2"
