# shellcheck shell=sh
# Sourced beside lib.sh: the images that the fleet is started from.

# Built only when they have to be: where they are there already, this needs no bash and none of GNU's tools.
make_images() {
  if can_build_here; then
    "$ROOT/images/build.sh"
    return
  fi
  absent=
  for tag in MUSTER_NODE_TAG MUSTER_ENVOY_TAG MUSTER_ETCD_TAG MUSTER_FRONT_TAG; do
    docker image inspect "$(setting "$tag")" >/dev/null 2>&1 || absent="$absent $(setting "$tag")"
  done
  [ -n "$absent" ] || return 0
  say "images/build.sh needs bash 4.4 and GNU tools, so Compose builds:$absent (some minutes)"
  docker buildx version >/dev/null 2>&1 ||
    fail "docker buildx is missing: install docker-buildx (Debian, Ubuntu) or docker-buildx-plugin (packages of docker.com, Fedora), then try again"
  docker compose build >"$CACHE/build.log" 2>&1 || fail "Compose could not build the images, see $CACHE/build.log: $(tail -n 3 "$CACHE/build.log")"
}

# shellcheck disable=SC2016 # for that bash to expand
can_build_here() {
  bash -c '((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) && command -v flock realpath sha256sum timeout' >/dev/null 2>&1 &&
    sort --version >/dev/null 2>&1
}
