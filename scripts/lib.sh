# shellcheck shell=sh
# Sourced by the scripts here and in images/: how they speak, what Compose reads from .env, and how the running fleet is asked.
#
# POSIX sh over `docker` and `docker compose`: busybox, dash, macOS. Who sources it has set ROOT. What has to be parsed or
# decided is asked of muster in a container, because this machine may have neither JSON tools nor a way to the fleet's network.

CACHE=$ROOT/.cache
# Logs go there before anything else does: a clone whose images are made already has none.
mkdir -p "$CACHE"
# How long a change may take to show: a lease's 5 s, an etcd election on top, a busy machine.
# shellcheck disable=SC2034 # for those who source this
PATIENCE=${MUSTER_PATIENCE:-60}
# shellcheck disable=SC2034
MEMBERS="etcd1 etcd2 etcd3"
# Compose can say how it reads .env since then.
COMPOSE_NEEDED=2.24

# Messages go to stderr: stdout is for data, such as the list of addresses.
say() { printf '%s\n' "$*" >&2; }
warn() { printf 'WARNING: %s\n' "$*" >&2; }
fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# A clock that only goes forward, in hundredths where the system has one.
seconds() {
  if [ -r /proc/uptime ]; then cut -d' ' -f1 /proc/uptime; else date +%s; fi
}
since() { awk -v a="$1" -v b="$(seconds)" 'BEGIN { printf "%.1f s", b - a }'; }

# bounded SECONDS COMMAND...: ends the command then; 143 when it had to. (GNU's and busybox's `timeout` differ.)
bounded() {
  bounded_by=$1
  shift
  "$@" &
  bounded_pid=$!
  (
    sleep "$bounded_by" &
    nap=$!
    trap 'kill "$nap"; exit' TERM
    wait "$nap"
    kill "$bounded_pid"
  ) >/dev/null 2>&1 &
  bounded_watch=$!
  bounded_code=0
  wait "$bounded_pid" || bounded_code=$?
  kill "$bounded_watch" 2>/dev/null || true
  wait "$bounded_watch" 2>/dev/null || true
  return "$bounded_code"
}

# engine_answers: sets ENGINE_SAID when it does not.
engine_answers() {
  ENGINE_SAID="there is no container engine on this machine (on Debian and Ubuntu: apt-get install docker.io)"
  command -v docker >/dev/null 2>&1 || return 1
  ENGINE_SAID=$(docker version --format '{{.Server.Version}}' 2>&1) && return 0
  ENGINE_SAID=$(printf '%s\n' "$ENGINE_SAID" | tail -n 1)
  return 1
}

# need_engine: an engine that answers, or the reason and what to do.
need_engine() {
  # podman takes the name `docker` on some distributions, and answers to most of it.
  case $(docker --version 2>/dev/null) in *odman*) fail "podman is not supported, muster needs Docker" ;; esac
  engine_answers && return
  case $ENGINE_SAID in
    *"permission denied"*) fail "you may not ask the container engine: sudo usermod -aG docker \"\$USER\", then log in again ($ENGINE_SAID)" ;;
    *"Cannot connect"* | *"error during connect"*)
      fail "the container engine does not run: start Docker Desktop, or sudo systemctl start docker ($ENGINE_SAID)" ;;
    *) fail "the container engine does not answer: $ENGINE_SAID" ;;
  esac
}

# need_compose: Compose v2 that is new enough. On Debian images/parts.sh brings it.
need_compose() {
  [ -z "${COMPOSE_FOUND:-}" ] || return 0
  if ! docker compose version >/dev/null 2>&1; then
    ! command -v docker-compose >/dev/null 2>&1 || say "docker-compose 1.x is not supported: the Compose v2 plugin is needed"
    # shellcheck disable=SC2015 # either way it is looked at again below
    [ -r /etc/debian_version ] && command -v bash >/dev/null 2>&1 && "$ROOT/images/parts.sh" compose || true
    docker compose version >/dev/null 2>&1 ||
      fail "docker compose is missing: install docker-compose-v2 (Ubuntu) or docker-compose-plugin (packages of docker.com, Fedora), then try again"
  fi
  COMPOSE_FOUND=$(docker compose version --short 2>/dev/null | sed 's/^v//')
  printf '%s\n' "$COMPOSE_FOUND" | awk -F. -v needed="$COMPOSE_NEEDED" '
    { split(needed, n, "."); exit !($1 > n[1] || ($1 == n[1] && $2 + 0 >= n[2])) }' ||
    fail "Compose $COMPOSE_NEEDED or newer is needed, and this is ${COMPOSE_FOUND:-none that says its version}"
}

# load_settings: .env and the environment as Compose reads them: quotes, comments, and which of both wins.
load_settings() {
  [ -z "${SETTINGS_LOADED:-}" ] || return 0
  need_compose
  # Beside a project of nothing: a wrong value in compose.yaml's place would end this before it can be named.
  printf 'name: muster\nservices: {none: {image: none}}\n' >"$CACHE/settings.yaml"
  SETTINGS=$(docker compose --project-directory "$ROOT" --file "$CACHE/settings.yaml" config --environment 2>"$CACHE/config.log") ||
    fail "Compose cannot read $ROOT/.env: $(tail -n 1 "$CACHE/config.log")"
  SETTINGS_LOADED=yes
}

# optional NAME: its value, and nothing when it has none.
optional() {
  load_settings
  printf '%s\n' "$SETTINGS" | sed -n "s/^$1=//p" | head -n 1
}

# setting NAME: its value.
setting() {
  setting_value=$(optional "$1")
  [ -n "$setting_value" ] || fail "$1 is set neither in the environment nor in .env"
  printf '%s\n' "$setting_value"
}

# Sets PROJECT, as Compose names it.
find_project() {
  # Here and not in the substitution below, whose variables would be lost.
  load_settings
  PROJECT=$(optional COMPOSE_PROJECT_NAME)
  PROJECT=${PROJECT:-muster}
}

# reversed: the lines of standard input, last first.
reversed() { sed '1!G;h;$!d'; }

# containers -a|"" [SERVICE [STATUS]]: ids of all or of the running ones, oldest first.
containers() {
  # One-off containers of `compose run` belong to no service.
  docker ps -q ${1:+"$1"} --filter "label=com.docker.compose.project=$PROJECT" \
    ${2:+--filter "label=com.docker.compose.service=$2" --filter label=com.docker.compose.oneoff=False} \
    ${3:+--filter "status=$3"} | reversed
}

count_of() { printf '%s' "$1" | grep -c . || true; }
name_of() { docker inspect -f '{{.Name}}' "$1" | tr -d /; }
# On the fleet's own network: a container may be on others too.
address_of() { docker inspect -f "{{with index .NetworkSettings.Networks \"${PROJECT}_fleet\"}}{{.IPAddress}}{{end}}" "$1"; }

# One that is not paused; empty when there is none, which is no failure here but a sentence of the caller's.
awake_node() { containers "" nginx running | head -n 1; }

# in_a_node COMMAND...: a command of muster's, in any node that is awake; its exit code is this one's.
in_a_node() {
  in_node=$(awake_node)
  [ -n "$in_node" ] || return 1
  docker exec "$in_node" muster "$@"
}

# node_rows: NODE IP ROLE STATE of each registered node, with - for what is empty.
node_rows() {
  # 3: known, and not healthy; the table is whole all the same.
  rows=$(in_a_node status -o tsv 2>/dev/null) || [ $? = 3 ] || return 1
  printf '%s\n' "$rows" | awk -F'\t' 'NR > 1 { print $1, $2, ($3 == "" ? "-" : $3), $4 }'
}

leader_of() { node_rows | awk '$3 == "leader" { print $1; found = 1 } END { exit !found }'; }

# envoy_ready SERVICE: it serves, as its own agent says.
envoy_ready() {
  ready_id=$(containers "" "$1" running)
  [ -n "$ready_id" ] && docker exec "$ready_id" /usr/local/bin/muster healthcheck --ready >/dev/null 2>&1
}

# member_healthy SERVICE: it answers a linearizable read.
member_healthy() {
  member_id=$(containers "" "$1" running)
  [ -n "$member_id" ] && docker exec "$member_id" etcdctl endpoint health --command-timeout=2s
}

# wait_for SECONDS COMMAND...: until the command succeeds.
wait_for() {
  wait_end=$(($(date +%s) + $1))
  shift
  until "$@"; do
    [ "$(date +%s)" -lt "$wait_end" ] || return 1
    sleep 0.2
  done
}

# Reads what compose.yaml would start now, for why_outdated; a profile's services too.
hashes() { HASHES=$(docker compose --profile '*' config --hash '*'); }

# why_outdated ID: how this container differs from what would be started now; empty when it does not.
why_outdated() {
  [ -n "${HASHES:-}" ] || hashes
  outdated_service=$(docker inspect -f '{{index .Config.Labels "com.docker.compose.service"}}' "$1")
  outdated_tag=$(docker inspect -f '{{.Config.Image}}' "$1")
  reason=
  [ "$(docker inspect -f '{{.Image}}' "$1")" = "$(docker image inspect -f '{{.Id}}' "$outdated_tag" 2>/dev/null)" ] || reason="an older image"
  settings_are_current "$1" "$outdated_service" || reason="${reason:+$reason and }other settings"
  if [ -z "$reason" ] && [ -n "${OLDER_THAN:-}" ]; then
    # Both are UTC in the same form, so that the earlier one sorts first.
    made=$(docker inspect -f '{{.Created}}' "$1")
    [ "$(printf '%s\n' "$made" "$OLDER_THAN" | LC_ALL=C sort | head -n 1)" != "$made" ] || reason="asked for"
  fi
  printf '%s\n' "$reason"
}

# settings_are_current ID SERVICE
settings_are_current() {
  case $2 in
    envoy-?)
      # The hash it carries is of the container whose network it joined, which `config --hash` does not know.
      plan=$(docker compose up -d --dry-run --no-build --no-deps "$2" 2>&1) ||
        fail "compose cannot say whether $2 is current: $(printf '%s\n' "$plan" | tail -n 2)"
      case $plan in *Recreate*) return 1 ;; esac
      ;;
    *)
      printf '%s\n' "$HASHES" | grep -qx "$2 $(docker inspect -f '{{index .Config.Labels "com.docker.compose.config-hash"}}' "$1")"
      ;;
  esac
}

# alone WHAT: nothing else changes this project meanwhile. Held until `release`, which the caller's EXIT trap runs.
alone() {
  LOCK=$CACHE/change-$PROJECT
  if ! mkdir "$LOCK" 2>/dev/null; then
    holder=$(cat "$LOCK/pid" 2>/dev/null || true)
    if [ -n "$holder" ] && kill -0 "$holder" 2>/dev/null; then
      LOCK=
      fail "project $PROJECT is being changed by another make roll, scale or restore (process $holder): $1 waits for none"
    fi
    # Its owner was killed. A rename, so that of two that come at once one takes it away.
    if mv "$LOCK" "$LOCK.$$" 2>/dev/null; then rm -rf "$LOCK.$$"; fi
    mkdir "$LOCK" 2>/dev/null || { LOCK= && fail "project $PROJECT is being changed by another make roll, scale or restore: $1 waits for none"; }
  fi
  echo "$$" >"$LOCK/pid"
}
release() { [ -z "${LOCK:-}" ] || rm -rf "$LOCK"; LOCK=; }

warn_standin() {
  say "*******************************************************************************"
  say "* NOT alpine:3.10. No image, no registry and no root file system was found,   *"
  say "* so the containers stand on busybox under the name muster/not-alpine:3.10.   *"
  say "* Set ALPINE_ROOTFS to alpine-minirootfs-3.10.9-x86_64.tar.gz for the real one. *"
  say "*******************************************************************************"
}
