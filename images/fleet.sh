#!/usr/bin/env bash
# What make does with the containers: images/fleet.sh up|scale N|stop [NODE]|kill [NODE]|kill-leader|status|muster COMMAND|observe|logs|down|clean
set -euo pipefail
# shellcheck source=images/steps.sh
source "$(dirname "$0")/steps.sh"
# shellcheck source=images/tls.sh
source "$(dirname "$0")/tls.sh"
# shellcheck source=images/project.sh
source "$(dirname "$0")/project.sh"
# shellcheck source=scripts/kernel.sh
source "$(dirname "$0")/../scripts/kernel.sh"
cd "$ROOT"

MAX_NODES=200

main() {
  local command=${1:-}
  shift || true
  case $command in
    up | scale | stop | kill | status | muster | observe | logs | down | clean) ;;
    kill-leader) command=kill_leader ;;
    *) fail "images/fleet.sh up, scale N, stop, kill, kill-leader, status, muster COMMAND, observe, logs, down or clean" ;;
  esac
  [[ $command == up ]] || engine_answers || fail "$(engine_complaint)"
  [[ $command == down || $command == clean ]] || tls_settings
  # `up` looks for itself.
  [[ $command == up || $command == down || $command == clean ]] || kernel_settings
  "fleet_$command" "$@"
}

fleet_up() {
  local started step count nodes
  started=$(seconds)
  if ! engine_answers; then
    say "$(engine_complaint)"
    say "Starting the same fleet as plain processes instead (make up-local); Ctrl-C ends it."
    exec "${MAKE:-make}" --no-print-directory up-local
  fi
  url=$(edge_url)
  need curl=curl
  step=$(seconds)
  compose_is_there
  tls_check
  port_is_free
  docker compose config --quiet || fail "compose.yaml or .env does not hold together, see above"
  say "1/4 checked the machine ($(since "$step"))"

  step=$(seconds)
  images/build.sh
  say "2/4 images ($(since "$step"))"

  step=$(seconds)
  # A fleet that runs keeps its size, and what was stopped or killed is started again.
  count=$(containers -a nginx | wc -l)
  nodes=$(setting MUSTER_NODES)
  check_count "$nodes" "MUSTER_NODES in .env"
  ((count > 0)) || count=$nodes
  say_plain_volumes
  remove_stranded_envoys
  kernel_check
  docker compose up -d --no-build --no-recreate --scale "nginx=$count" >"$CACHE/compose.log" 2>&1 || start_despite_paused ||
    fail "docker compose could not start the fleet: $(tail -n 3 "$CACHE/compose.log")"
  say "3/4 containers ($(since "$step"))"

  step=$(seconds)
  wait_complete
  say "4/4 the list is complete through Envoy ($(since "$step"))"
  say ""
  print_list
  say ""
  say "$url/ after $(since "$started"). Try: make scale N=5, make kill, make kill-leader, make stop, make status; make down ends it."
  say_outdated
  say_standin
}

fleet_scale() {
  local count=${1:-} started
  check_count "$count" "N"
  url=$(edge_url)
  [[ -n $(containers -a nginx) ]] || fail "no fleet runs here: make up first"
  compose_is_there
  tls_check
  alone "make scale"
  started=$(seconds)
  docker compose up -d --no-build --no-deps --no-recreate --scale "nginx=$count" nginx >"$CACHE/compose.log" 2>&1 ||
    start_despite_paused nginx || fail "docker compose could not scale: $(tail -n 3 "$CACHE/compose.log")"
  rm -f "$CACHE/roll-$PROJECT"
  say "$count nodes ($(since "$started"))"
  started=$(seconds)
  wait_complete
  say "the list is complete through Envoy ($(since "$started"))"
  print_list
}

fleet_stop() {
  local node
  node=$(choose_node "${1:-}")
  end_node "$node" "docker stop" stop
}

fleet_kill() {
  local node
  node=$(choose_node "${1:-}")
  end_node "$node" "docker kill" kill
}

fleet_kill_leader() {
  local leader node
  url=$(edge_url)
  leader=$(list | leader_of) || fail "the list at $url/ips.json names no leader"
  node=$(choose_node "$leader")
  end_node "$node" "docker kill of the leader" kill
}

fleet_status() {
  local node
  [[ -n $(containers -a) ]] || fail "no fleet here (project $PROJECT): make up"
  compose_is_there
  docker compose ps --all --format 'table {{.Service}}\t{{.Name}}\t{{.Image}}\t{{.Status}}'
  node=$(awake_node)
  echo
  # 3: known, and not healthy; the table has said it.
  if [[ -z $node ]] || ! { timeout 10 docker exec "$node" muster status || (($? == 3)); }; then
    say "no node could be asked for the roster"
  fi
  say_outdated
  say_standin
}

# A command of muster's in one of the nodes: its exit code is this one's.
fleet_muster() {
  local node terminal=()
  (($# > 0)) || fail "which command? Such as make muster ARGS='verify', or make muster ARGS='--help'"
  node=$(awake_node)
  [[ -n $node ]] || fail "no node runs that could be asked: make up"
  [[ ! -t 0 || ! -t 1 ]] || terminal=(--interactive --tty)
  exec docker exec "${terminal[@]}" "$node" muster "$@"
}

# Prometheus beside the fleet that runs, and not in the way of it: it goes with `down`, and what it saw stays till `clean`.
fleet_observe() {
  local started said="" url deadline nodes grafana
  nodes=$(containers "" nginx | wc -l)
  ((nodes > 0)) || fail "no fleet runs here: make up first"
  need curl=curl
  compose_is_there
  images/build.sh prometheus
  started=$(seconds)
  # A fleet from before has no certificate for it yet.
  if ! { docker compose run --rm --no-deps -T pki &&
    docker compose --profile observe up -d --no-build --no-deps prometheus; } >"$CACHE/compose.log" 2>&1; then
    fail "docker compose could not start Prometheus: $(tail -n 3 "$CACHE/compose.log")"
  fi
  url=http://127.0.0.1:$(setting MUSTER_PROMETHEUS_PORT)
  deadline=$((SECONDS + PATIENCE))
  until [[ $(grep -o '"scrapePool":"muster"' <<<"$said" | wc -l) -ge $nodes && $said != *'"health":"down"'* && $said != *'"health":"unknown"'* ]]; do
    if ((SECONDS >= deadline)); then
      docker compose logs --no-color --tail 5 prometheus >&2
      fail "not every target answers Prometheus after $PATIENCE s, see $url/targets: $(grep -o '"lastError":"[^"]\+"' <<<"$said" | sort | uniq -c)"
    fi
    sleep 0.5
    said=$(curl --silent --max-time 2 "$url/api/v1/targets?state=active" || true)
  done
  say "Prometheus hears all $(grep -o '"scrapePool"' <<<"$said" | wc -l) targets after $(since "$started"): $url/consoles/muster.html; make down ends it."
  [[ $(curl --silent --location --output /dev/null --write-out '%{http_code}' "$url/") == 200 ]] ||
    say "It is Debian's, without pages of its own: that one and $url/api/v1/ are what it has."
  grafana=$(setting GRAFANA_IMAGE)
  if ! { docker image inspect "$grafana" || timeout 600 docker pull --quiet "$grafana"; } >/dev/null 2>&1; then
    say "$grafana cannot be had; in a Grafana of your own import docs/dashboards/muster.json"
  elif docker compose --profile grafana up -d --no-deps grafana >"$CACHE/compose.log" 2>&1; then
    say "Grafana with the dashboard starts at http://127.0.0.1:$(setting MUSTER_GRAFANA_PORT)/"
  else
    warn "Grafana does not start: $(tail -n 3 "$CACHE/compose.log")"
  fi
}

fleet_logs() {
  compose_is_there
  exec docker compose logs --follow --tail 20 "$@"
}

# Plain docker by label, in bounded steps: this must work when compose.yaml, Compose, etcd or all nodes are broken.
fleet_down() {
  local started ids
  started=$(seconds)
  rm -f "$CACHE/roll-$PROJECT"
  mapfile -t ids < <(docker ps -q --filter "label=com.docker.compose.project=$PROJECT" --filter status=paused)
  ((${#ids[@]} == 0)) || timeout 2 docker unpause "${ids[@]}" >/dev/null || true
  # Nodes first, while etcd still takes their leave; more than a few seconds of it help nobody.
  mapfile -t ids < <(containers "" nginx)
  ((${#ids[@]} == 0)) || timeout 6 docker stop -t 4 "${ids[@]}" >/dev/null || true
  mapfile -t ids < <(containers "")
  ((${#ids[@]} == 0)) || timeout 3 docker stop -t 2 "${ids[@]}" >/dev/null || true
  mapfile -t ids < <(containers -a)
  # With what an image declares as its own volume, which has no name and no label.
  ((${#ids[@]} == 0)) || timeout 10 docker rm -f -v "${ids[@]}" >/dev/null || true
  mapfile -t ids < <(docker network ls -q --filter "label=com.docker.compose.project=$PROJECT")
  ((${#ids[@]} == 0)) || timeout 4 docker network rm "${ids[@]}" >/dev/null || true
  [[ -z $(containers -a) ]] || fail "these containers could not be removed: $(containers -a | tr '\n' ' ')"
  say "down in $(since "$started"); etcd's data is kept (make clean removes it)"
}

fleet_clean() {
  local ids image
  fleet_down
  mapfile -t ids < <(docker volume ls -q --filter "label=com.docker.compose.project=$PROJECT")
  ((${#ids[@]} == 0)) || docker volume rm "${ids[@]}" >/dev/null
  for image in MUSTER_NODE_TAG MUSTER_ETCD_TAG MUSTER_ENVOY_TAG MUSTER_FRONT_TAG MUSTER_PROMETHEUS_TAG; do
    docker image rm "$(setting "$image")" >/dev/null 2>&1 || true
  done
  rm -rf "$CACHE/images"
  say "removed the volumes and images of project $PROJECT; downloads stay in .cache/parts, compiled code in target"
}

# Compose creates and removes what it should and then starts nothing, because it tries to start a paused container too.
start_despite_paused() {
  local filters=(--filter "label=com.docker.compose.project=$PROJECT") paused ids
  [[ -z ${1:-} ]] || filters+=(--filter "label=com.docker.compose.service=$1")
  paused=$(docker ps --format '{{.Names}}' "${filters[@]}" --filter status=paused | tr '\n' ' ')
  [[ -n $paused ]] || return 1
  say "paused and left so: $paused"
  mapfile -t ids < <(docker ps -aq "${filters[@]}" --filter status=created --filter status=exited)
  ((${#ids[@]} == 0)) || docker start "${ids[@]}" >/dev/null
}

# choose_node [NAME|IP]: prints the id of that node, by default of the youngest.
choose_node() {
  local id wanted=$1 chosen=
  for id in $(containers "" nginx); do
    if [[ -z $wanted || $id == "$wanted" || $(name_of "$id") == "$wanted" || $(address_of "$id") == "$wanted" ]]; then
      chosen=$id
    fi
  done
  [[ -n $chosen ]] || fail "no running node${wanted:+ $wanted}; these run: $(containers "" nginx | tr '\n' ' ')"
  echo "$chosen"
}

# end_node ID WHAT COMMAND: does it and says when the list no longer has the node.
end_node() {
  local address deadline started url
  address=$(address_of "$1")
  url=$(edge_url)
  started=$(seconds)
  deadline=$((SECONDS + PATIENCE))
  say "$2: $1 $(name_of "$1") $address"
  docker "$3" "$1" >/dev/null
  if [[ -z $(containers "" nginx) ]]; then
    say "that was the last node: nobody is left to serve a list"
    return
  fi
  while ((SECONDS < deadline)); do
    if list | addresses_of | grep . | { ! grep -qxF "$address"; }; then
      say "gone from the list $(since "$started") after the command"
      return
    fi
    sleep 0.05
  done
  fail "$address is still listed after $PATIENCE s"
}

# Nodes that should be listed: a paused one may be, until its lease ends; one off the network has no address.
expected_addresses() {
  local id
  for id in $(docker ps -q --filter "label=com.docker.compose.project=$PROJECT" \
    --filter label=com.docker.compose.service=nginx --filter status=running); do
    address_of "$id"
  done | grep . | sort || true
}

# Each answer comes from another node: as many complete ones in a row as there are nodes.
wait_complete() {
  local deadline=$((SECONDS + PATIENCE)) agreed=0 expected listed=
  expected=$(expected_addresses)
  while ((agreed < $(wc -w <<<"$expected") || agreed == 0)); do
    if ((SECONDS >= deadline)); then
      docker compose ps --all --format 'table {{.Service}}\t{{.Name}}\t{{.Status}}' >&2
      docker compose logs --no-color --tail 3 >&2
      say_outdated
      fail "the list is not complete after $PATIENCE s. Running nodes: $(echo "${expected:-none}" | tr '\n' ' ')listed: $(echo "${listed:-nothing}" | tr '\n' ' ')"
    fi
    listed=$(list | addresses_of)
    if [[ -n $listed && $listed == "$expected" ]]; then
      agreed=$((agreed + 1))
    else
      agreed=0
      sleep 0.1
      expected=$(expected_addresses)
    fi
  done
  until envoy_ready envoy-a && envoy_ready envoy-b; do
    ((SECONDS < deadline)) || fail "the list is complete, but not both Envoys are ready after $PATIENCE s: docker compose logs envoy-a envoy-b"
    sleep 0.1
  done
}

print_list() {
  local answer leader id
  answer=$(list)
  leader=$(leader_of <<<"$answer" || true)
  for id in $(containers "" nginx); do
    printf '  %-15s %s %s%s\n' "$(address_of "$id")" "$id" "$(name_of "$id")" "$([[ $id != "$leader" ]] || echo '  leader')"
  done | sort -V
}

# What `make up` leaves alone although a new start would look different.
say_outdated() {
  local id reason
  reason=$(tls_mismatch)
  [[ -z $reason ]] || { say "$reason"; return; }
  hashes
  for id in $(containers ""); do
    # Some end meanwhile.
    reason=$(why_outdated "$id" 2>/dev/null) || continue
    [[ -z $reason ]] || say "out of date: $(name_of "$id") ($reason); $(who_replaces "$id")"
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
  local old
  old=$(containers -a envoy)
  [[ -z $old ]] || { say "two Envoys stand behind one port now; the single one goes"; docker rm -f "$old" >/dev/null; }
  [[ -z $(containers -a front) ]] || return 0
  for old in $(containers -a envoy-a) $(containers -a envoy-b); do docker rm -f "$old" >/dev/null; done
}

# A registry from before TLS. Its members cannot be taken over, and nothing in it is missed.
say_plain_volumes() {
  local volumes
  volumes=$(docker volume ls -q --filter "label=com.docker.compose.project=$PROJECT" | grep -E '_etcd[0-9]+$' | tr '\n' ' ' || true)
  [[ -z $volumes ]] ||
    say "etcd speaks TLS now and starts on new volumes; nodes register again by themselves. No longer used: $volumes(docker volume rm)"
}

say_standin() {
  local base
  base=$(docker image inspect -f '{{index .Config.Labels "org.opencontainers.image.base.name"}}' "$(setting MUSTER_NODE_TAG)" 2>/dev/null) || return 0
  [[ $base != muster/not-alpine:* ]] || warn_standin
}

check_count() {
  [[ $1 =~ ^[1-9][0-9]{0,3}$ ]] && (($1 <= MAX_NODES)) && return
  fail "$2 is '$1', allowed is a number of nodes from 1 to $MAX_NODES, for example make scale N=5"
}

port_is_free() {
  local address port
  [[ -z $(containers "" front)$(containers "" envoy) ]] || return 0
  address=${url#http*://}
  for port in MUSTER_PORT $(! tls_is_wanted || echo MUSTER_TLS_PORT); do
    ! (exec 3<>"/dev/tcp/${address%:*}/$(setting "$port")") 2>/dev/null ||
      fail "something else answers on ${address%:*}:$(setting "$port"): stop it, or choose another port ($port=8090 make up)"
  done
}

main "$@"
