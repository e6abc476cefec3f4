# shellcheck shell=bash
# Sourced by the scripts behind make: the running fleet of one Compose project, and how it is asked.

PROJECT=${COMPOSE_PROJECT_NAME:-muster}
# How long a change may take to show: a lease's 5 s, an etcd election on top, a busy machine.
# shellcheck disable=SC2034 # for those who source this
PATIENCE=${MUSTER_PATIENCE:-60}

# containers -a|"" [SERVICE]: ids of all or of the running ones, oldest first.
containers() {
  local filters=(--filter "label=com.docker.compose.project=$PROJECT")
  # One-off containers of `compose run` are nobody's service.
  [[ -z ${2:-} ]] || filters+=(--filter "label=com.docker.compose.service=$2" --filter label=com.docker.compose.oneoff=False)
  [[ -z $1 ]] || filters+=("$1")
  docker ps -q "${filters[@]}" | tac
}

name_of() { docker inspect -f '{{.Name}}' "$1" | tr -d /; }
address_of() { docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$1"; }

# The file that nginx serves is one JSON object without nested objects in its nodes: no JSON tool is needed.
# With TLS the name in the certificate is the public's, and here the machine asks itself.
# `url` is the caller's.
# shellcheck disable=SC2154
list() { curl --silent --fail --insecure --max-time 2 "$url/ips.json" 2>/dev/null | tr -d ' \n' || true; }
addresses_of() { grep -o '"ips":\[[^]]*\]' | grep -oE '[0-9]+(\.[0-9]+){3}' | sort || true; }
leader_of() { grep -o '{[^{}]*"leader":true[^{}]*}' | grep -o '"name":"[^"]*"' | cut -d'"' -f4 | grep .; }

# One that is not paused; empty when there is none, which is no failure here but a sentence of the caller's.
awake_node() {
  containers "" nginx | xargs -r docker inspect -f '{{if not .State.Paused}}{{.Id}}{{end}}' | grep -m 1 . || true
}

compose_is_there() {
  docker compose version >/dev/null 2>&1 && return
  ! command -v docker-compose >/dev/null || say "docker-compose 1.x is not supported: the Compose v2 plugin is needed"
  images/parts.sh compose
}

edge_url() {
  local bind
  bind=$(setting MUSTER_BIND)
  [[ $bind != 0.0.0.0 ]] || bind=127.0.0.1
  if tls_is_wanted; then
    echo "https://$bind:$(setting MUSTER_TLS_PORT)"
  else
    echo "http://$bind:$(setting MUSTER_PORT)"
  fi
}

engine_complaint() {
  if command -v docker >/dev/null; then
    echo "The container engine does not answer: $(docker version 2>&1 >/dev/null | tail -n 1)"
  else
    echo "There is no container engine on this machine (on Debian: apt-get install docker.io)."
  fi
}

# Reads what compose.yaml would start now, for why_outdated; a profile's services too.
hashes() { HASHES=$(docker compose --profile '*' config --hash '*'); }

# why_outdated ID: how this container differs from what would be started now; empty when it does not.
why_outdated() {
  local service tag reason=
  [[ -n ${HASHES:-} ]] || hashes
  service=$(docker inspect -f '{{index .Config.Labels "com.docker.compose.service"}}' "$1")
  tag=$(docker inspect -f '{{.Config.Image}}' "$1")
  [[ $(docker inspect -f '{{.Image}}' "$1") == $(docker image inspect -f '{{.Id}}' "$tag" 2>/dev/null) ]] || reason="an older image"
  settings_are_current "$1" "$service" || reason="${reason:+$reason and }other settings"
  # Both are UTC in the same form.
  [[ -n $reason || -z ${OLDER_THAN:-} || ! $(docker inspect -f '{{.Created}}' "$1") < $OLDER_THAN ]] || reason="asked for"
  echo "$reason"
}

# settings_are_current ID SERVICE
settings_are_current() {
  local plan
  if [[ $2 == envoy-? ]]; then
    # The hash it carries is of the container whose network it joined, which `config --hash` does not know.
    plan=$(docker compose up -d --dry-run --no-build --no-deps "$2" 2>&1) || fail "compose cannot say whether $2 is current: $(tail -n 2 <<<"$plan")"
    [[ $plan != *Recreate* ]]
  else
    grep -qx "$2 $(docker inspect -f '{{index .Config.Labels "com.docker.compose.config-hash"}}' "$1")" <<<"$HASHES"
  fi
}

# alone WHAT: nobody else changes this project meanwhile. Held until the script ends.
alone() {
  exec 8>"$CACHE/change-$PROJECT.lock"
  flock --nonblock 8 || fail "project $PROJECT is being changed by another make roll, scale or restore: $1 waits for nobody"
}

# envoy_ready SERVICE: it serves, as its own agent says.
envoy_ready() {
  local id
  id=$(containers "" "$1")
  [[ -n $id ]] && timeout 10 docker exec "$id" /usr/local/bin/muster healthcheck --ready >/dev/null 2>&1
}
