#!/usr/bin/env bash
# Proves the first commands on machines where nothing is installed: testbed/bare/run.sh [--without PACKAGE] [packages] [debian] [compose] [alpine] [cases] [engine]
#
#   packages  a bare Debian 12: each package of images/build-packages.txt is seen to be missing
#   debian    a bare Debian 12 with Rust, git, make and a docker client: make up, make verify, make down
#   compose   no make, no Rust: `docker compose up -d` on stand-ins of the official images, then `make up` on top of it
#   alpine    busybox, no bash: every everyday command
#   cases     set-ups that people have reported: proxies, old kernels, odd .env, a second network, a lost volume
#   engine    an engine of its own that is stopped, killed and started again under a running fleet
#
# From a fresh clone of HEAD. Each machine is a container that is made anew; only its root file system is kept in .cache/bare.
# --without leaves a package out of the list of the clone: then debian and compose have to fail, and name it.
set -euo pipefail
# shellcheck source=images/steps.sh
source "$(dirname "$0")/../../images/steps.sh"
# shellcheck source=testbed/bare/machine.sh
source "$ROOT/testbed/bare/machine.sh"
# shellcheck source=testbed/bare/cases.sh
source "$ROOT/testbed/bare/cases.sh"
# shellcheck source=testbed/bare/engine.sh
source "$ROOT/testbed/bare/engine.sh"
cd "$ROOT"

PARTS="packages debian compose alpine cases engine"
WITHOUT=

main() {
  local part
  if [[ ${1:-} == --without ]]; then
    WITHOUT=${2:?which package}
    grep -q "^$WITHOUT " images/build-packages.txt || fail "images/build-packages.txt has no package $WITHOUT"
    shift 2
  fi
  # shellcheck disable=SC2086 # a list of words
  (($# > 0)) || set -- $PARTS
  for part; do [[ " $PARTS " == *" $part "* ]] || fail "unknown part '$part': $PARTS"; done
  [[ $(id -u) == 0 ]] || fail "the bare machines need root: debootstrap makes a root file system"
  is_debian || fail "the bare machines need Debian: debootstrap makes their root file system from this machine's own mirror"
  need_engine
  # For the machines, and for the images that stand in: nobody else may have brought them yet.
  images/parts.sh compose buildx
  [[ -z $(git status --porcelain) ]] || say "not committed, so not tried: $(git status --porcelain | head -n 3 | tr '\n' ' ')"
  prepare
  for part; do step "$part"; done
}

# step PART
step() {
  local started
  started=$(seconds)
  say "-- bare: $1"
  "bare_$1"
  say "-- bare: $1 passed in $(since "$started")"
}

bare_packages() {
  local package image said
  image=$(debian_root)
  said=$(docker run --rm --volume "$CLONE:$CLONE" --workdir "$CLONE" "$image" bash -c 'source images/steps.sh && build_lacks all')
  while read -r package _; do
    # The root has make, as README asks for it.
    [[ " $said " == *" $package "* || $package == make ]] || fail "on a bare Debian $package is not seen to be missing: $said"
  done < <(grep -v '^#' images/build-packages.txt)
}

# Images under names of its own: those of this machine, made before, would prove nothing.
bare_debian() {
  fleet_is debian
  machine "$(debian_root)" --rust
  if [[ -n $WITHOUT ]]; then
    ! inside "make up" || fail "make up succeeds without $WITHOUT"
    names_it || fail "without $WITHOUT make up does not name it: $(tail -n 5 "$WORK/log")"
    return
  fi
  # Whoever needs images meanwhile waits for these.
  exec 8>"$CACHE/images.lock"
  flock 8
  inside "make up" || fail "make up on a bare Debian: $(tail -n 20 "$WORK/log")"
  keep_images
  exec 8>&-
  # Whoever runs beside this may begin: images/test.sh.
  touch "$CACHE/images.made"
  listed 3
  inside "make verify" || fail "make verify: $(tail -n 20 "$WORK/log")"
  grep -q "agrees: 3 nodes\|agree: 3 nodes\|agrees" "$WORK/log" || fail "make verify says: $(tail -n 5 "$WORK/log")"
  inside "make down" || fail "make down: $(tail -n 20 "$WORK/log")"
  [[ -z $(docker ps -aq --filter "label=com.docker.compose.project=$PROJECT") ]] || fail "make down left containers"
}

# Whether a line about a failure names the package or what it brings; apt's lists, of what it recommends, name many.
names_it() {
  local line
  line=$(grep -iE '(^|[^-a-z])error|not found|no such file|cannot' "$WORK/log" | grep -m 1 "$WITHOUT\|$(probe_words)") || return 1
  say "without $WITHOUT: ${line:0:160}"
}

# What is said when a package is missing that no package manager was asked for.
probe_words() {
  case $WITHOUT in
    libprotobuf-dev) echo 'descriptor.proto' ;;
    protobuf-compiler) echo 'protoc' ;;
    musl-tools) echo 'musl-gcc' ;;
    libc6-dev) echo 'stdlib.h\|crt1.o' ;;
    *) echo "$WITHOUT" ;;
  esac
}

bare_compose() {
  local before asked
  fleet_is compose
  stand_ins
  machine "$(debian_root)" --plugins
  inside "docker compose pull --ignore-buildable 2>&1 || true"
  ! grep -q "Pulling" "$WORK/log" || fail "docker compose pull asks for: $(grep Pulling "$WORK/log")"
  inside "docker compose --progress plain pull"  || fail "docker compose pull: $(tail -n 5 "$WORK/log")"
  if [[ -n $WITHOUT ]]; then
    ! inside "docker compose up -d" || fail "docker compose up succeeds without $WITHOUT"
    names_it || fail "without $WITHOUT docker compose up does not name it: $(tail -n 5 "$WORK/log")"
    return
  fi
  inside "docker compose up -d" || fail "docker compose up -d: $(tail -n 20 "$WORK/log")"
  listed 3
  before=$(docker ps -q --no-trunc --filter "label=com.docker.compose.project=$PROJECT" | sort)
  asked=$(seconds)
  inside "scripts/fleet.sh up" || fail "up on top of it: $(tail -n 20 "$WORK/log")"
  ! grep -q "compiling\|building\|built" "$WORK/log" || fail "up on top of docker compose up makes images again: $(cat "$WORK/log")"
  ! grep -q "out of date" "$WORK/log" || fail "up finds out of date what docker compose has just made: $(cat "$WORK/log")"
  say "up on top of it: nothing made again ($(since "$asked"))"
  [[ $(docker ps -q --no-trunc --filter "label=com.docker.compose.project=$PROJECT" | sort) == "$before" ]] || fail "up replaced containers"
  inside "scripts/fleet.sh down" || fail "down: $(tail -n 20 "$WORK/log")"
}

# Every everyday command, by a user who has busybox and a docker client.
bare_alpine() {
  fleet_is alpine
  use_images
  machine alpine:3.10 --glibc --plugins
  inside "! command -v bash" || fail "this Alpine has bash, so it proves nothing"
  everyday "make up"
  everyday "make scale N=5"
  everyday "make stop"
  everyday "make kill"
  everyday "make kill-leader"
  everyday "make up"
  everyday "make status"
  everyday "make verify"
  everyday "make check"
  everyday "make backup FILE=$WORK/etcd.db"
  everyday "make restore FILE=$WORK/etcd.db"
  everyday "make roll ALL=yes"
  everyday "make break FAULT=kill"
  everyday "make break FAULT=etcd"
  inside "scripts/fleet.sh logs & sleep 3; kill \$!; true" || fail "logs: $(tail -n 5 "$WORK/log")"
  grep -q nginx "$WORK/log" || fail "logs shows nothing of nginx: $(tail -n 5 "$WORK/log")"
  everyday "make down"
  everyday "make clean"
}

everyday() {
  local started
  started=$(seconds)
  inside "$1" || fail "$1 on Alpine: $(tail -n 20 "$WORK/log")"
  say "   $1 ($(since "$started"))"
}

main "$@"
