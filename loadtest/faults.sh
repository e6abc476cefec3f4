# shellcheck shell=bash
# Sourced: what happens to the fleet during the load, one function a scenario. They run beside k6, ZERO being the second
# at which k6 started to send and EVENT_AT the second of that run at which the fault is due. Every step is written to
# $OUT/events: milliseconds since 1970 of begin and end, what, whom.

now_ms() { date +%s%3N; }

# until_second S: of the run.
until_second() {
  local left
  left=$(awk -v zero="$ZERO" -v at="$1" -v now="$(now_ms)" 'BEGIN { print (zero + at * 1000 - now) / 1000 }')
  [[ $left == -* ]] || sleep "$left"
}

# step WHAT WHOM COMMAND...
step() {
  local what=$1 whom=$2 began
  shift 2
  began=$(now_ms)
  timeout "${LONGEST:-90}" "$@" >>"$OUT/commands.log" 2>&1 || fail "$what $whom: $(tail -n 1 "$OUT/commands.log")"
  happened "$began" "$what" "$whom"
}

# on_node COMMAND ID: told by its address, because that is what the list shows; a container has one only while it runs.
on_node() {
  local address began
  address=$(address_of "$2")
  began=$(now_ms)
  timeout 90 docker "$1" "$2" >>"$OUT/commands.log" 2>&1 || fail "$1 $2: $(tail -n 1 "$OUT/commands.log")"
  happened "$began" "$1" "${address:-$(address_of "$2")}"
}

happened() {
  printf '%s %s %s %s\n' "$1" "$(now_ms)" "$2" "$3" >>"$OUT/events"
  say "  $(awk -v a="$1" -v zero="$ZERO" 'BEGIN { printf "%.1f s", (a - zero) / 1000 }'): $2 $3"
}

# scale_to N [SECONDS]: and wait until the list says so.
scale_to() {
  step scale "$1" "${COMPOSE[@]}" up -d --no-build --no-deps --no-recreate --scale "nginx=$1" nginx
  await_count "$1"
}

await_count() {
  local deadline=$((SECONDS + ${2:-30}))
  while (($(listed_count) != $1)); do
    ((SECONDS < deadline)) || fail "the list does not reach $1 nodes"
    sleep 0.2
  done
}

fault_smoke() { :; }
fault_steady() { :; }
fault_knee() { :; }

fault_stop() {
  local node
  node=$(follower) || fail "no follower"
  until_second "$EVENT_AT"
  on_node stop "$node"
  until_second "$AFTER_AT"
  on_node start "$node"
}

fault_kill() {
  local node
  node=$(follower) || fail "no follower"
  until_second "$EVENT_AT"
  on_node kill "$node"
  until_second "$AFTER_AT"
  on_node start "$node"
}

fault_leader() {
  local node
  node=$(leader) || fail "no leader"
  until_second "$EVENT_AT"
  on_node kill "$node"
  until_second "$AFTER_AT"
  on_node start "$node"
}

fault_pause() {
  local node
  node=$(follower) || fail "no follower"
  until_second "$EVENT_AT"
  on_node pause "$node"
  until_second "$AFTER_AT"
  on_node unpause "$node"
}

fault_edge_kill() {
  until_second "$EVENT_AT"
  step kill envoy-a docker kill "$(containers "" envoy-a)"
  until_second "$AFTER_AT"
  step start envoy-a docker start "$(containers -a envoy-a)"
}

fault_edge_stop() {
  until_second "$EVENT_AT"
  step stop envoy-b docker stop "$(containers "" envoy-b)"
  until_second "$AFTER_AT"
  step start envoy-b docker start "$(containers -a envoy-b)"
}

# Everything but `front`, whether or not it is out of date.
fault_roll() {
  until_second "$EVENT_AT"
  # shellcheck disable=SC2153 # from fleet.sh
  LONGEST=180 step roll everything env "COMPOSE_PROJECT_NAME=$PROJECT" "${ADDRESS[@]}" ALL=yes "$ROOT/scripts/roll.sh"
}

# Two thirds of the rest with one member less, one third without any.
fault_etcd() {
  local rest=$((DURATION - EVENT_AT))
  until_second "$EVENT_AT"
  step "kill" etcd1 "${COMPOSE[@]}" kill etcd1
  until_second $((EVENT_AT + rest / 3))
  step "start" etcd1 "${COMPOSE[@]}" start etcd1
  until_second $((EVENT_AT + rest / 2))
  step "kill" "etcd1, etcd2, etcd3" "${COMPOSE[@]}" kill etcd1 etcd2 etcd3
  until_second $((EVENT_AT + rest * 5 / 6))
  step "start" "etcd1, etcd2, etcd3" "${COMPOSE[@]}" start etcd1 etcd2 etcd3
}

fault_scale() {
  local count
  until_second "$EVENT_AT"
  for count in ${SIZES//,/ }; do scale_to "$count"; done
}

# One of each kind, with a pause between, so that each change of the list can be told from the next.
fault_list() {
  local node
  until_second "$EVENT_AT"
  scale_to $((NODES + 3))
  sleep 1
  scale_to "$NODES"
  sleep 1
  node=$(follower) || fail "no follower"
  on_node stop "$node"
  await_count $((NODES - 1))
  on_node start "$node"
  await_count "$NODES"
  node=$(follower) || fail "no follower"
  on_node kill "$node"
  await_count $((NODES - 1))
  on_node start "$node"
  await_count "$NODES"
  node=$(leader) || fail "no leader"
  on_node kill "$node"
  await_count $((NODES - 1))
  on_node start "$node"
  await_count "$NODES"
}

# The same changes in the same order, so that two soaks can be compared. The oldest node is left alone: its memory is
# what is judged.
fault_soak() {
  local round=0 at node witness
  witness=$(witness)
  for ((at = EVENT_AT; at < DURATION - 45; at += 30, round += 1)); do
    until_second "$at"
    node=$(living | cut -d' ' -f1 | grep -vxF "$witness" | tail -n 1)
    case $((round % 5)) in
      0) on_node stop "$node" && sleep 5 && on_node start "$node" ;;
      1) on_node kill "$node" && sleep 5 && on_node start "$node" ;;
      2) on_node pause "$node" && sleep 8 && on_node unpause "$node" ;;
      3) scale_to $((NODES + 2)) && scale_to "$NODES" ;;
      4) step kill etcd2 "${COMPOSE[@]}" kill etcd2 && sleep 5 && step start etcd2 "${COMPOSE[@]}" start etcd2 ;;
    esac
  done
}

witness() { containers "" nginx | head -n 1; }
