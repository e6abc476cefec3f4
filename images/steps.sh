# shellcheck shell=bash
# Sourced by the scripts here: how they speak, fail and get what they need.

shopt -s inherit_errexit
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=$ROOT/.cache
# Logs go there before anything else does: a clone whose images are made already has none.
mkdir -p "$CACHE"

# Messages go to stderr: stdout is for data, such as the list of addresses.
say() { printf '%s\n' "$*" >&2; }
warn() { printf 'WARNING: %s\n' "$*" >&2; }
fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

seconds() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(seconds)" 'BEGIN { printf "%.1f s", b - a }'; }

# need PROGRAM=PACKAGE...: installs what is missing on Debian as root, and names it everywhere else.
need() {
  local pair packages=()
  for pair; do
    command -v "${pair%%=*}" >/dev/null 2>&1 || packages+=("${pair#*=}")
  done
  ((${#packages[@]} == 0)) || install_packages "${packages[@]}"
}

# need_build [PACKAGE...]: what images/build-packages.txt lists, or these of it.
need_build() {
  local package probe missing=()
  while read -r package probe; do
    [[ $# == 0 || " $* " == *" $package "* ]] || continue
    sh -c "$probe" >/dev/null 2>&1 </dev/null || missing+=("$package")
  done < <(grep -v '^#' "$ROOT/images/build-packages.txt")
  ((${#missing[@]} == 0)) || install_packages "${missing[@]}"
}

install_packages() {
  if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    fail "missing here: $*. Install these packages (on Debian: sudo apt-get install $*), then try again."
  fi
  say "installing $*"
  local log=$CACHE/apt.log
  {
    apt_get install -y --no-install-recommends "$@" ||
      { apt_get update && apt_get install -y --no-install-recommends "$@"; }
  } >"$log" 2>&1 </dev/null || fail "apt-get could not install $*: $(tail -n 3 "$log")"
}

# A fresh machine runs apt by itself for a while, and mirrors fail now and then.
apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"; }

# need_rust: cargo, with the target the node's static binary is built for.
need_rust() {
  command -v cargo >/dev/null ||
    fail "cargo (Rust 1.95 or newer) is missing: install it with rustup, or let the image build use the rust:1.95 image."
  local target
  target=$(uname -m)-unknown-linux-musl
  # Debian's own cargo has no rustup: then the target must have come with it.
  [[ -d $(cd "$ROOT" && rustc --print sysroot)/lib/rustlib/$target ]] && return
  command -v rustup >/dev/null || fail "this Rust has no target $target, and rustup is not there to add it"
  (cd "$ROOT" && rustup target add "$target" >/dev/null 2>&1) ||
    fail "rustup could not add the target $target"
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

engine_answers() { command -v docker >/dev/null && docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# setting NAME: from the environment, else from .env, as compose does it.
setting() {
  local value=${!1:-}
  [[ -n $value ]] || value=$(sed -n "s/^$1=//p" "$ROOT/.env")
  [[ -n $value ]] || fail "$1 is set neither in the environment nor in .env"
  echo "$value"
}

warn_standin() {
  say "*******************************************************************************"
  say "* NOT alpine:3.10. No image, no registry and no root file system was found,   *"
  say "* so the containers stand on busybox under the name muster/not-alpine:3.10.   *"
  say "* Set ALPINE_ROOTFS to alpine-minirootfs-3.10.9-x86_64.tar.gz for the real one. *"
  say "*******************************************************************************"
}
