#!/bin/sh
# The everyday commands: scripts/fleet.sh up|start|scale N|stop [NODE]|kill [NODE]|kill-leader|status|muster COMMAND|logs|down|clean
set -eu
umask 022
ROOT=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$ROOT/scripts/lib.sh"
# shellcheck source=scripts/kernel.sh
. "$ROOT/scripts/kernel.sh"
# shellcheck source=scripts/tls.sh
. "$ROOT/scripts/tls.sh"
# shellcheck source=scripts/images.sh
. "$ROOT/scripts/images.sh"
# shellcheck source=scripts/settings.sh
. "$ROOT/scripts/settings.sh"
cd "$ROOT"

main() {
  command=${1:-}
  case $command in
    up | start | scale | stop | kill | status | muster | logs | down | clean) ;;
    kill-leader) command=kill_leader ;;
    *) fail "scripts/fleet.sh up, start, scale N, stop, kill, kill-leader, status, muster COMMAND, logs, down or clean" ;;
  esac
  shift
  [ "$command" != up ] || without_engine
  need_engine
  case $command in
    # These must work when compose.yaml, .env and Compose are broken.
    down | clean) find_project_anyhow ;;
    *)
      find_project
      compose_files
      ;;
  esac
  "fleet_$command" "$@"
}

# Plain processes only where there is no `docker` at all: an engine that may not be asked is an error to be mended.
without_engine() {
  ! command -v docker >/dev/null 2>&1 || return 0
  say "There is no container engine on this machine (on Debian and Ubuntu: apt-get install docker.io)."
  say "Starting the same fleet as plain processes instead (make up-local); Ctrl-C ends it."
  exec "${MAKE:-make}" --no-print-directory up-local
}

find_project_anyhow() {
  if (load_settings) >/dev/null 2>&1; then
    find_project
  else
    PROJECT=${COMPOSE_PROJECT_NAME:-muster}
    say "Compose cannot read its files; project $PROJECT is taken (COMPOSE_PROJECT_NAME names another)"
  fi
}

fleet_up() {
  started=$(seconds)
  step=$(seconds)
  check_machine
  check_settings
  tls_check
  docker compose config --quiet || fail "compose.yaml or .env does not hold together, see above"
  say "1/4 checked the machine ($(since "$step"))"

  step=$(seconds)
  make_images
  tls_check
  port_is_free
  say "2/4 images ($(since "$step"))"

  step=$(seconds)
  # A fleet that runs keeps its size, and what was stopped or killed is started again.
  count=$(count_of "$(containers -a nginx)")
  [ "$count" -gt 0 ] || count=$(setting MUSTER_NODES)
  say_plain_volumes
  remove_stranded_envoys
  kernel_check
  renew_ended_certificates
  start_fleet "$count"
  say "3/4 containers ($(since "$step"))"

  step=$(seconds)
  wait_complete
  say "4/4 the list is complete, and both Envoys have it ($(since "$step"))"
  say ""
  print_list
  say ""
  say "$(edge_url)/ after $(since "$started"). Try: make scale N=5, make kill, make kill-leader, make stop, make status; make down ends it."
  say_outdated
  say_standin
  judge_members
}

# What would end in a loop of crashes is said before anything starts.
check_machine() {
  info=$(docker info --format '{{.MemoryLimit}} {{.OSType}} {{.Architecture}}' 2>/dev/null) || return 0
  case $info in
    *" windows "*) fail "the engine runs Windows containers: switch Docker Desktop to Linux containers" ;;
    *" x86_64" | *" amd64" | *" aarch64" | *" arm64") ;;
    *) fail "muster runs on x86_64 and aarch64, and the engine is on ${info##* }" ;;
  esac
  case $info in
    false*) say "this kernel counts no memory for containers: limits do not hold, and Envoy sheds no load by its own. Boot with cgroup_enable=memory cgroup_memory=1 (Raspberry Pi: in /boot/firmware/cmdline.txt)" ;;
  esac
}

# By the engine itself, which is where the port will be: it may be another machine, or a virtual one.
port_is_free() {
  [ -z "$(containers "" front)$(containers "" envoy)" ] || return 0
  bind=$(setting MUSTER_BIND)
  ports=MUSTER_PORT
  ! tls_is_wanted || ports="$ports MUSTER_TLS_PORT"
  for port in $ports; do
    said=$(docker run --rm --publish "$bind:$(setting "$port"):8080" "$(setting MUSTER_FRONT_TAG)" true 2>&1) ||
      case $said in
        *"already allocated"* | *"already in use"*)
          fail "something else answers on $bind:$(setting "$port"): stop it, or choose another port ($port=8090 make up)" ;;
        *"cannot assign"*) fail "MUSTER_BIND is $bind, and the engine's machine has no such address" ;;
        *) fail "the engine does not publish $bind:$(setting "$port"): $(printf '%s\n' "$said" | tail -n 1)" ;;
      esac
  done
}

# renew_ended_certificates: those that ended while the fleet was off. All are ours, made by `muster pki`.
renew_ended_certificates() {
  [ -n "$(docker volume ls -q --filter "name=^${PROJECT}_pki-authority\$")" ] || return 0
  # 3: known, and some are not in order; which is in the table.
  shown=$(docker compose run --rm --no-deps -T pki pki show 2>/dev/null) || [ $? = 3 ] || return 0
  case $shown in *expired*) ;; *) return 0 ;; esac
  say "certificates have ended while the fleet was off: they are renewed (docs/security.md)"
  docker compose run --rm --no-deps -T pki pki renew >"$CACHE/pki.log" 2>&1 ||
    fail "certificates have ended and could not be renewed: $(tail -n 3 "$CACHE/pki.log"). What they say: $shown"
}

# start_fleet COUNT
start_fleet() {
  up="docker compose up -d --no-build --no-recreate --scale nginx=$1"
  $up >"$CACHE/compose.log" 2>&1 && return
  start_despite_paused || fail "docker compose could not start the fleet: $(tail -n 3 "$CACHE/compose.log")"
}

# What was there, after a restart of the engine: for a unit at boot, which builds nothing and asks no questions.
fleet_start() {
  started=$(seconds)
  count=$(count_of "$(containers -a nginx)")
  [ "$count" -gt 0 ] || fail "no fleet is here (project $PROJECT): make up"
  renew_ended_certificates
  start_fleet "$count"
  wait_complete
  say "$count nodes serve again after $(since "$started")"
  judge_members
}

fleet_scale() {
  count=${1:-}
  check_count "$count" "N"
  [ -n "$(containers -a nginx)" ] || fail "no fleet runs here: make up first"
  tls_check
  trap 'release' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  alone "make scale"
  started=$(seconds)
  docker compose up -d --no-build --no-deps --no-recreate --scale "nginx=$count" nginx >"$CACHE/compose.log" 2>&1 ||
    start_despite_paused nginx || fail "docker compose could not scale: $(tail -n 3 "$CACHE/compose.log")"
  rm -f "$CACHE/roll-$PROJECT"
  say "$count nodes ($(since "$started"))"
  started=$(seconds)
  wait_complete
  say "the list is complete, and both Envoys have it ($(since "$started"))"
  print_list
}

fleet_stop() {
  node=$(choose_node "${1:-}")
  end_node "$node" "docker stop" stop
}

fleet_kill() {
  node=$(choose_node "${1:-}")
  end_node "$node" "docker kill" kill
}

fleet_kill_leader() {
  leader=$(leader_of) || fail "the registry names no leader: make check says why"
  node=$(choose_node "$leader")
  end_node "$node" "docker kill of the leader" kill
}

fleet_status() {
  [ -n "$(containers -a)" ] || fail "no fleet here (project $PROJECT): make up"
  docker compose ps --all --format 'table {{.Service}}\t{{.Name}}\t{{.Image}}\t{{.Status}}'
  echo
  # 3: known, and not healthy; the table has said it.
  in_a_node status || [ $? = 3 ] || say "no node could be asked for the roster"
  say_outdated
  say_standin
}

# A command of muster's in one of the nodes: its exit code is this one's.
fleet_muster() {
  [ $# -gt 0 ] || fail "which command? Such as make muster ARGS='verify', or make muster ARGS='--help'"
  node=$(awake_node)
  [ -n "$node" ] || fail "no node runs that could be asked: make up"
  terminal=
  if [ -t 0 ] && [ -t 1 ]; then terminal=yes; fi
  exec docker exec ${terminal:+--interactive --tty} "$node" muster "$@"
}

fleet_logs() { exec docker compose logs --follow --tail 20 "$@"; }

# Plain docker by label, in bounded steps.
fleet_down() {
  started=$(seconds)
  rm -f "$CACHE/roll-$PROJECT"
  on_each 2 "$(docker ps -q --filter "label=com.docker.compose.project=$PROJECT" --filter status=paused)" docker unpause
  # Nodes first, while etcd still takes their leave; more than a few seconds of it help no client.
  on_each 6 "$(containers "" nginx)" docker stop -t 4
  on_each 3 "$(containers "")" docker stop -t 2
  # With the volumes that no name refers to: some images declare one.
  on_each 10 "$(containers -a)" docker rm -f -v
  on_each 4 "$(docker network ls -q --filter "label=com.docker.compose.project=$PROJECT")" docker network rm
  [ -z "$(containers -a)" ] || fail "these containers could not be removed: $(containers -a | tr '\n' ' ')"
  say "down in $(since "$started"); etcd's data is kept (make clean removes it)"
}

# on_each SECONDS IDS COMMAND...: nothing where there are none; what does not come to an end in time is seen by its result.
on_each() {
  each_bound=$1
  each_ids=$2
  shift 2
  # shellcheck disable=SC2086 # ids, one word each
  [ -z "$each_ids" ] || bounded "$each_bound" "$@" $each_ids >/dev/null || true
}

fleet_clean() {
  fleet_down
  on_each 60 "$(docker volume ls -q --filter "label=com.docker.compose.project=$PROJECT")" docker volume rm
  if (load_settings) >/dev/null 2>&1; then
    for tag in MUSTER_NODE_TAG MUSTER_ETCD_TAG MUSTER_ENVOY_TAG MUSTER_FRONT_TAG MUSTER_PROMETHEUS_TAG; do
      # Another project's containers may use it.
      docker image rm "$(setting "$tag")" >/dev/null 2>&1 || true
    done
  else
    say "the images stay: Compose cannot say their names"
  fi
  rm -rf "$CACHE/images"
  say "removed the volumes and images of project $PROJECT; downloads stay in .cache/parts, compiled code in target"
}

# start_despite_paused [SERVICE]: Compose creates and removes what it should and then starts nothing, because it tries to start
# a paused container too.
start_despite_paused() {
  set -- --filter "label=com.docker.compose.project=$PROJECT" ${1:+--filter "label=com.docker.compose.service=$1"}
  paused=$(docker ps --format '{{.Names}}' "$@" --filter status=paused | tr '\n' ' ')
  [ -n "$paused" ] || return 1
  say "paused and left so: $paused"
  for id in $(docker ps -aq "$@" --filter status=created --filter status=exited); do docker start "$id" >/dev/null; done
}

# choose_node [NAME|IP]: prints the id of that node, by default of the youngest.
choose_node() {
  chosen=
  for id in $(containers "" nginx); do
    if [ -z "$1" ] || [ "$id" = "$1" ] || [ "$(name_of "$id")" = "$1" ] || [ "$(address_of "$id")" = "$1" ]; then
      chosen=$id
    fi
  done
  [ -n "$chosen" ] || fail "no running node${1:+ $1}; these run: $(containers "" nginx | tr '\n' ' ')"
  echo "$chosen"
}

# end_node ID WHAT COMMAND: does it and says when the list no longer has the node.
end_node() {
  address=$(address_of "$1")
  started=$(seconds)
  say "$2: $1 $(name_of "$1") $address"
  docker "$3" "$1" >/dev/null
  if [ -z "$(awake_node)" ]; then
    say "that was the last node: none is left to serve a list"
    return
  fi
  in_a_node wait --gone "$address" --timeout "$PATIENCE" >"$CACHE/wait.log" 2>&1 ||
    fail "$address is still listed after $PATIENCE s: $(tail -n 1 "$CACHE/wait.log")"
  say "gone from the list $(since "$started") after the command"
}

# wait_complete: each running node is routed to and no other, both Envoys have acknowledged that, and every file says the same.
# What was drained by hand is not routed to, and that is meant.
wait_complete() {
  complete_end=$(($(date +%s) + PATIENCE))
  until is_complete; do
    if [ "$(date +%s)" -ge "$complete_end" ]; then
      docker compose ps --all --format 'table {{.Service}}\t{{.Name}}\t{{.Status}}' >&2
      docker compose logs --no-color --tail 3 >&2
      say_outdated
      fail "the list is not complete after $PATIENCE s: $(tail -n 2 "$CACHE/wait.log"). Running nodes: $(containers "" nginx running | tr '\n' ' ')"
    fi
    sleep 0.2
  done
}

is_complete() {
  running=$(containers "" nginx running)
  [ -n "$running" ] || { echo "no node runs" >"$CACHE/wait.log"; return 1; }
  marked=$(in_a_node status -o tsv 2>/dev/null | awk -F'\t' '$4 == "draining" { print $1 }' || true)
  set --
  wanted=0
  for id in $running; do
    # Off the fleet's network it has no address there, and cannot be listed.
    [ -n "$(address_of "$id")" ] || continue
    case " $(echo "$marked" | tr '\n' ' ') " in *" $id "*) continue ;; esac
    set -- "$@" --node "$id"
    wanted=$((wanted + 1))
  done
  in_a_node wait "$@" --count "$wanted" --envoy "$(setting ENVOY_ID)-a" --envoy "$(setting ENVOY_ID)-b" --timeout 5 >"$CACHE/wait.log" 2>&1 &&
    in_a_node verify --wait 5 >"$CACHE/wait.log" 2>&1 && envoy_ready envoy-a && envoy_ready envoy-b
}

print_list() {
  node_rows | while read -r node ip role _; do
    mark=
    [ "$role" != leader ] || mark="  leader"
    printf '  %-15s %s %s%s\n' "$ip" "$node" "$(name_of "$node" 2>/dev/null || true)" "$mark"
  done
}

edge_url() {
  bind=$(setting MUSTER_BIND)
  [ "$bind" != 0.0.0.0 ] || bind=127.0.0.1
  if tls_is_wanted; then
    echo "https://$bind:$(setting MUSTER_TLS_PORT)"
  else
    echo "http://$bind:$(setting MUSTER_PORT)"
  fi
}

# A member that does not come up is not missed by the fleet, and is not well: 3.
judge_members() {
  sick=
  for member in $MEMBERS; do
    wait_for 15 member_healthy "$member" >"$CACHE/member.log" 2>&1 || sick="$sick $member"
  done
  [ -n "$sick" ] || return 0
  for member in $sick; do
    say "$member does not answer ($(docker inspect -f '{{.State.Status}}, restarted {{.RestartCount}} times' "$(containers -a "$member")")). It said: $(docker compose logs --no-log-prefix --tail 2 "$member" 2>&1)"
  done
  say "The fleet runs on the other members. One that has lost its volume comes back by: make backup FILE=etcd.db, then make restore FILE=etcd.db (requests are served meanwhile)"
  exit 3
}

# What `make up` leaves alone although a new start would look different.
say_outdated() {
  mismatch=$(tls_mismatch)
  [ -z "$mismatch" ] || { say "$mismatch"; return; }
  hashes
  for id in $(containers ""); do
    # Some end meanwhile.
    why=$(why_outdated "$id" 2>/dev/null) || continue
    [ -z "$why" ] || say "out of date: $(name_of "$id") ($why); $(who_replaces "$id")"
  done
}

who_replaces() {
  case $(docker inspect -f '{{index .Config.Labels "com.docker.compose.service"}}' "$1") in
    front) echo "replacing it resets every connection: make down, then make up, when that may be" ;;
    prometheus | grafana) echo "make observe replaces it" ;;
    *) echo "make roll replaces it without losing a request" ;;
  esac
}

# Envoys that cannot start any more: the single one of before, which holds the port that `front` publishes now, and those
# that have joined a `front` that was removed.
remove_stranded_envoys() {
  old=$(containers -a envoy)
  [ -z "$old" ] || { say "two Envoys stand behind one port now; the single one goes"; docker rm -f "$old" >/dev/null; }
  [ -z "$(containers -a front)" ] || return 0
  for old in $(containers -a envoy-a) $(containers -a envoy-b); do docker rm -f "$old" >/dev/null; done
}

# A registry from before TLS. Its members cannot be taken over, and nothing in it is missed.
say_plain_volumes() {
  volumes=$(docker volume ls -q --filter "label=com.docker.compose.project=$PROJECT" | grep -E '_etcd[0-9]+$' | tr '\n' ' ' || true)
  [ -z "$volumes" ] ||
    say "etcd speaks TLS now and starts on new volumes; nodes register again by themselves. No longer used: $volumes(docker volume rm)"
}

say_standin() {
  base=$(docker image inspect -f '{{index .Config.Labels "org.opencontainers.image.base.name"}}' "$(setting MUSTER_NODE_TAG)" 2>/dev/null) || return 0
  case $base in muster/not-alpine:*) warn_standin ;; esac
}

main "$@"
