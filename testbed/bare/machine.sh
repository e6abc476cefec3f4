# shellcheck shell=bash
# Sourced by run.sh: bare machines as containers, and what they are given.

# The machine's name, for everything that has to be taken away again.
ME=muster-bare-$$

# A fresh clone at a path that the engine's host has too: what a container mounts is looked up there.
prepare() {
  mkdir -p "$CACHE/bare"
  WORK=$(mktemp -d "$CACHE/bare/work.XXXXXX")
  CLONE=$WORK/clone
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  # shellcheck disable=SC2153 # from steps.sh
  # As on hosts that are hardened so: what containers read as another user must not depend on it.
  (umask 077 && git clone --quiet --local "$ROOT" "$CLONE")
  mkdir -p "$CLONE/.cache"
  [[ -z $WITHOUT ]] || sed -i "/^$WITHOUT /d" "$CLONE/images/build-packages.txt"
  # The base that belongs to the project's own machines lies beside its checkout, where there is one. A copy: the machine sees
  # nothing outside of this directory.
  [[ ! -d $ROOT/../shared/images ]] || { mkdir "$WORK/shared" && cp -r "$ROOT/../shared/images" "$WORK/shared/"; }
  mkdir -p "$WORK/apt"
  cp -r /etc/apt/. "$WORK/apt"
  # Only the distribution's own sources: a bare root has no keys of others.
  find "$WORK/apt/sources.list.d" -type f ! -name debian.sources -delete
}

clean_up() {
  local project
  docker rm -f "$ME" >/dev/null 2>&1 || true
  engine_gone
  for project in "$ME-debian" "$ME-compose" "$ME-alpine" "$ME-cases"; do fleet_gone "$project"; done
  docker image ls --format '{{.Repository}}:{{.Tag}}' | grep "^$ME" | xargs -r docker image rm >/dev/null 2>&1 || true
  rm -rf "$WORK"
}

# debian_root: the image of a Debian 12 with git, make and the bundle of authorities, and nothing else.
debian_root() {
  local tar=$CACHE/bare/bookworm.tar mirror root
  if [[ ! -s $tar ]]; then
    need debootstrap=debootstrap
    # Either form of a list, and one of the two files may not be there.
    mirror=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources 2>/dev/null || true; } |
      sed -n 's/^URIs: //p; s/^deb \(\[[^]]*\] \)\?\(http[^ ]*\) bookworm .*/\2/p' | head -n 1)
    [[ -n $mirror ]] || fail "this machine's own package sources name no mirror of Debian 12"
    say "   making a bare Debian 12 (a minute, kept in .cache/bare)"
    root=$(mktemp -d)
    debootstrap --variant=minbase --include=make,git,ca-certificates bookworm "$root" "$mirror" >"$CACHE/debootstrap.log" 2>&1 ||
      fail "debootstrap: $(tail -n 3 "$CACHE/debootstrap.log")"
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    tar -C "$root" -c . >"$tar.new"
    mv "$tar.new" "$tar"
    rm -rf "$root"
  fi
  docker image inspect "$ME-root:12" >/dev/null 2>&1 || docker import "$tar" "$ME-root:12" >/dev/null
  echo "$ME-root:12"
}

# fleet_is NAME: project, port and image names that no other fleet of this machine has.
fleet_is() {
  PROJECT=$ME-$1
  PORT=$((20000 + RANDOM % 10000))
  TAGS=(MUSTER_NODE_TAG="$ME/node:$1" MUSTER_ENVOY_TAG="$ME/envoy:$1" MUSTER_ETCD_TAG="$ME/etcd:$1" MUSTER_FRONT_TAG="$ME/front:$1")
}

# machine IMAGE [--rust] [--plugins] [--glibc]: starts it. What it is given: the clone, the engine's socket, a docker client, the
# host's package sources and authorities; Rust without the target that a script has to add; Compose and buildx.
machine() {
  local image=$1 options=() name
  shift
  docker rm -f "$ME" >/dev/null 2>&1 || true
  options=(--volume "$WORK:$WORK" --volume /var/run/docker.sock:/var/run/docker.sock --volume "$(static_client):/usr/local/bin/docker:ro"
    --volume "$WORK/apt:/etc/apt:ro" --volume /etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt:ro
    --env HOME=/home --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
  [[ ! -e /etc/pip.conf ]] || options+=(--volume /etc/pip.conf:/etc/pip.conf:ro)
  # How this machine reaches its package registries: authorities and mirrors, no paths of programs.
  for name in SSL_CERT_FILE CURL_CA_BUNDLE PIP_CERT PIP_INDEX_URL REQUESTS_CA_BUNDLE CARGO_HTTP_CAINFO RUSTUP_DIST_SERVER http_proxy https_proxy no_proxy; do
    [[ -z ${!name:-} ]] || options+=(--env "$name")
  done
  options+=(--env "COMPOSE_PROJECT_NAME=$PROJECT" --env "MUSTER_PORT=$PORT")
  for name in "${TAGS[@]}" "${STANDINS[@]}"; do options+=(--env "$name"); done
  for name; do
    case $name in
      --rust)
        copy_rust
        options+=(--env RUSTUP_HOME="$WORK/rustup" --env CARGO_HOME="$WORK/cargo"
          --env "PATH=$WORK/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        ;;
      --plugins) options+=(--volume "$(plugins):/usr/local/lib/docker/cli-plugins:ro") ;;
      --glibc) options+=(--volume "$(glibc_programs):/glibc:ro") ;;
    esac
  done
  # Shares: other stages wait for what is compiled here, and a container counts as one of many processes otherwise. As much as
  # two of them: with four times one, tests beside it waited for a core longer than anything waits for an answer.
  docker run --detach --name "$ME" --cpu-shares 2048 --network host --init --workdir "$CLONE" "${options[@]}" "$image" sleep 3600 >/dev/null
  [[ " $* " != *" --glibc "* ]] ||
    docker exec "$ME" sh -c 'cp -r /glibc/lib64 / && mkdir -p /lib/x86_64-linux-gnu && cp /glibc/lib/* /lib/x86_64-linux-gnu/ && cp /glibc/bin/make /usr/bin/'
}
STANDINS=()

# inside COMMAND: on the machine, as a person types it; what it says is in $WORK/log.
inside() { bounded 1500 docker exec "$ME" sh -c "$1" >"$WORK/log" 2>&1; }

# A client that runs on any userland.
static_client() {
  local client
  client=$(type -P docker)
  ! ldd "$client" >/dev/null 2>&1 || fail "the docker client of this machine is dynamic, and a bare machine lacks its libraries: put a static one first in PATH"
  echo "$client"
}

# A Rust of this machine, one toolchain of it, without the target that the project's scripts have to add.
copy_rust() {
  local home=${RUSTUP_HOME:-$HOME/.rustup} toolchain name
  [[ -d $WORK/rustup ]] && return
  toolchain=$(cd "$ROOT" && rustc --print sysroot)
  # By the name that rust-toolchain.toml asks for, or rustup would fetch another copy: here one may be a link to the other.
  name=$(cd "$ROOT" && rustup show active-toolchain | cut -d' ' -f1)
  mkdir -p "$WORK/rustup/toolchains" "$WORK/cargo/bin"
  # Its content, because a toolchain may be a link to another, and without the half of it that is documentation.
  mkdir "$WORK/rustup/toolchains/$name"
  tar -C "$toolchain" --exclude=./share/doc -c . | tar -C "$WORK/rustup/toolchains/$name" -x
  cp "$home/settings.toml" "$WORK/rustup/" 2>/dev/null || true
  cp -P "${CARGO_HOME:-$HOME/.cargo}"/bin/{rustup,cargo,rustc} "$WORK/cargo/bin/"
  RUSTUP_HOME=$WORK/rustup CARGO_HOME=$WORK/cargo rustup default "$name" >/dev/null 2>&1
  RUSTUP_HOME=$WORK/rustup rustup target remove "$TARGET" >/dev/null 2>&1 || true
}

plugins() {
  local directory=$WORK/plugins
  if [[ ! -d $directory ]]; then
    mkdir -p "$directory"
    local name path
    for name in compose buildx; do
      for path in "${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins" /usr/local/lib/docker/cli-plugins /usr/libexec/docker/cli-plugins /usr/lib/docker/cli-plugins; do
        [[ ! -x $path/docker-$name ]] || { cp "$path/docker-$name" "$directory/"; break; }
      done
      [[ -x $directory/docker-$name ]] || fail "the plugin docker $name is not on this machine: images/parts.sh $name"
    done
  fi
  echo "$directory"
}

# make for a userland that has none, and what it and the plugins are linked to.
glibc_programs() {
  local directory=$WORK/glibc library
  mkdir -p "$directory"/{bin,lib,lib64}
  cp "$(type -P make)" "$directory/bin/"
  for library in $(ldd "$(type -P make)" "$(plugins)"/docker-* | grep -o '/[^ :]*' | grep -v "^$WORK" | sort -u); do
    case $library in
      /lib64/*) cp -L "$library" "$directory/lib64/" ;;
      *.so*) cp -L "$library" "$directory/lib/" ;;
    esac
  done
  echo "$directory"
}

# Stand-ins of the official images, under names of their own: a bare Debian with what rust:1.95 has, and the images that were
# made from packages here, which have the programs where the official ones have them. The first one's compiler does not
# optimize: what is forgotten in a Dockerfile shows without, and `debian` compiles as people do.
stand_ins() {
  build_images etcd envoy >"$WORK/log" 2>&1 || fail "the stand-ins: $(tail -n 5 "$WORK/log")"
  load_settings
  copy_rust
  mkdir -p "$WORK/rust/cargo"
  # Links: the same files once more, without the crates that a machine before has fetched.
  cp -rl "$WORK/rustup" "$WORK/rust/"
  cp -rl "$WORK/cargo/bin" "$WORK/rust/cargo/"
  cp -r "$WORK/apt" "$WORK/rust/apt"
  cp /etc/ssl/certs/ca-certificates.crt "$WORK/rust/"
  cat >"$WORK/rust/Dockerfile" <<DOCKERFILE
FROM $(debian_root)
COPY apt /etc/apt
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make git curl
COPY rustup /usr/local/rustup
COPY cargo /usr/local/cargo
ENV CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
ENV RUSTUP_HOME=/usr/local/rustup CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
DOCKERFILE
  docker buildx build --load --tag "$ME/rust:1.95" "$WORK/rust" >"$WORK/log" 2>&1 || fail "the stand-in of the Rust image: $(tail -n 5 "$WORK/log")"
  rm -rf "$WORK/rust"
  docker tag "$(setting MUSTER_ETCD_TAG)" "$ME/etcd:official"
  docker tag "$(setting MUSTER_ENVOY_TAG)" "$ME/envoy:official"
  STANDINS=(RUST_IMAGE="$ME/rust:1.95" ETCD_IMAGE="$ME/etcd:official" ENVOY_IMAGE="$ME/envoy:official")
}

# keep_images: what has just been compiled from this commit serves the stages that follow, which compile nothing again.
keep_images() {
  local pair
  [[ -z $(git status --porcelain) ]] || return 0
  load_settings
  for pair in "${TAGS[@]}"; do docker tag "${pair#*=}" "$(setting "${pair%%=*}")"; done
}

# use_images: those of this machine, under the machine's own names, so that `clean` may take them.
use_images() {
  local pair
  build_images >"$WORK/log" 2>&1 || fail "the images: $(tail -n 5 "$WORK/log")"
  load_settings
  for pair in "${TAGS[@]}"; do docker tag "$(setting "${pair%%=*}")" "${pair#*=}"; done
  STANDINS=()
}

# listed COUNT: the list through Envoy, as a client gets it.
listed() {
  local deadline=$((SECONDS + 60)) list=
  until [[ $(wc -l <<<"$list") == "$1" && -n $list ]]; do
    ((SECONDS < deadline)) || fail "the list does not have $1 addresses after 60 s: $(tr '\n' ' ' <<<"$list")"
    sleep 0.2
    list=$(curl --noproxy '*' --silent --max-time 2 "http://127.0.0.1:$PORT/ips.txt" || true)
  done
}
