# shellcheck shell=bash
# Sourced by what compiles, tests and measures: beside scripts/lib.sh, how it gets what it needs. Bash and GNU tools.

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "error: this script needs bash 4.4 or newer, and this is $BASH_VERSION (on macOS: brew install bash). The fleet itself needs none: docker compose up -d" >&2
  exit 1
fi
shopt -s inherit_errexit
# What containers run as another user has to be readable for it, whatever the user's own umask is.
umask 022
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib.sh
source "$ROOT/scripts/lib.sh"

# need PROGRAM=PACKAGE...: installs what is missing on Debian as root, and names it everywhere else.
need() {
  local pair packages=()
  for pair; do
    command -v "${pair%%=*}" >/dev/null 2>&1 || packages+=("${pair#*=}")
  done
  ((${#packages[@]} == 0)) || install_packages "${packages[@]}"
}

# build_lacks all|PACKAGE...: which packages of images/build-packages.txt are missing, of all or of these.
build_lacks() {
  local package probe missing=()
  while read -r package probe; do
    [[ $1 == all || " $* " == *" $package "* ]] || continue
    sh -c "$probe" >/dev/null 2>&1 </dev/null || missing+=("$package")
  done < <(grep -v '^#' "$ROOT/images/build-packages.txt")
  echo "${missing[*]:-}"
}

# need_build all|PACKAGE...: has them installed.
need_build() {
  local missing
  missing=$(build_lacks "$@")
  # shellcheck disable=SC2086 # one word each
  [[ -z $missing ]] || install_packages $missing
}

is_debian() { command -v apt-get >/dev/null && grep -qE '^ID="?(debian)"?$' /etc/os-release; }
may_install() { [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; }

install_packages() {
  if ! may_install; then
    fail "missing here: $*. Install $(how_to_install "$@"), then try again."
  fi
  say "installing $*"
  local log=$CACHE/apt.log
  # apt waits for the other's lock while it installs, and not while it updates its lists.
  exec 7>"$CACHE/apt.lock"
  flock 7
  {
    apt_get install -y --no-install-recommends "$@" ||
      { apt_get update && apt_get install -y --no-install-recommends "$@"; }
  } >"$log" 2>&1 </dev/null || fail "apt-get could not install $*: $(tail -n 3 "$log")"
  exec 7>&-
}

# python_venv DIRECTORY PACKAGE==VERSION...: a virtual environment with exactly these, made anew when they change.
python_venv() {
  local directory=$1 log=$CACHE/venv.log made
  shift
  made="$directory/made-$(IFS=-; echo "$*")"
  [[ ! -f $made ]] || return 0
  rm -rf "$directory"
  if ! python3 -m venv "$directory" >"$log" 2>&1; then
    install_packages python3-venv
    /usr/bin/python3 -m venv "$directory" >"$log" 2>&1 || fail "no virtual environment: $(tail -n 2 "$log")"
  fi
  "$directory/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "$@" >"$log" 2>&1 ||
    fail "pip could not install $*: $(tail -n 2 "$log")"
  touch "$made"
}

# how_to_install DEBIAN_PACKAGE...: the command of this distribution, with its own names.
how_to_install() {
  local package names=()
  if command -v dnf >/dev/null; then
    for package; do
      case $package in
        libc6-dev) names+=(glibc-devel) ;;
        libprotobuf-dev) names+=(protobuf-devel) ;;
        musl-tools) names+=(musl-gcc) ;;
        shellcheck) names+=(ShellCheck) ;;
        *) names+=("$package") ;;
      esac
    done
    echo "them: sudo dnf install ${names[*]}"
  elif command -v apt-get >/dev/null; then
    echo "them: sudo apt-get install $*"
  else
    echo "what brings them (these are Debian's names)"
  fi
}

# A fresh machine runs apt by itself for a while, and mirrors fail now and then.
apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"; }

# The target of what runs in containers: static, on the architecture of this machine.
TARGET=$(uname -m)-unknown-linux-musl
TARGET=${TARGET/#arm64-/aarch64-}

# The oldest Rust that compiles muster, as Cargo.toml has it.
rust_version() { sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml"; }

# rust_lacks host|TARGET: what is wrong with the Rust of this machine; empty when nothing is.
rust_lacks() {
  local version
  if ! command -v cargo >/dev/null || ! version=$(cd "$ROOT" && rustc --version 2>&1); then
    echo "cargo (Rust $(rust_version) or newer) is missing: install it with rustup"
  elif [[ $(printf '%s\n' "$(rust_version)" "$(cut -d' ' -f2 <<<"$version")" | sort -V | head -n 1) != "$(rust_version)" ]]; then
    echo "this Rust is $(cut -d' ' -f2 <<<"$version"), and $(rust_version) or newer is needed: rustup update, or install it with rustup"
  elif [[ $1 != host && ! -d $(cd "$ROOT" && rustc --print sysroot)/lib/rustlib/$1 ]] && ! command -v rustup >/dev/null; then
    # Debian's own cargo has no rustup: then the target must have come with it.
    echo "this Rust has no target $1, and rustup is not there to add it"
  fi
}

# need_rust host|TARGET: cargo, with that target where one is named.
need_rust() {
  local lacks
  lacks=$(rust_lacks "$1")
  [[ -z $lacks ]] || fail "$lacks"
  [[ $1 != host && ! -d $(cd "$ROOT" && rustc --print sysroot)/lib/rustlib/$1 ]] || return 0
  (cd "$ROOT" && rustup target add "$1" >/dev/null 2>&1) || fail "rustup could not add the target $1"
}

# cargo_tool NAME VERSION: compiled from crates.io with its own lock file, into .cache/tools.
cargo_tool() {
  cargo install --root "$CACHE/tools" --list | grep -q "^$1 v$2:" && return
  local started
  started=$(seconds)
  say "compiling $1 $2 (minutes, once)"
  cargo install --quiet --locked --root "$CACHE/tools" "$1@$2" >"$CACHE/$1.log" 2>&1 ||
    fail "$1 $2 could not be compiled: $(tail -n 3 "$CACHE/$1.log")"
  say "compiled $1 in $(since "$started")"
}

# build_images [IMAGE...]: images/build.sh, one at a time: two that run at once would compile the same.
build_images() { flock "$CACHE/images.lock" "$ROOT/images/build.sh" "$@"; }

# fleet_gone PROJECT: takes away what its tests left behind, which may be nothing, and may be on its way out already.
fleet_gone() {
  local label=label=com.docker.compose.project=$1
  docker ps -aq --filter "$label" | xargs -r docker rm -f -v >/dev/null 2>&1 || true
  docker network ls -q --filter "$label" | xargs -r docker network rm >/dev/null 2>&1 || true
  docker volume ls -q --filter "$label" | xargs -r docker volume rm >/dev/null 2>&1 || true
}
