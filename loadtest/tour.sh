#!/usr/bin/env bash
# Breaks the running fleet while k6 counts what clients notice: loadtest/tour.sh demo | break [FAULT]
#
# demo is a tour of about three minutes; break takes one fault, chosen at random unless it is named, and shows that
# nothing broke. Both begin with and leave a complete fleet, and exit with 3 when a request was lost or somebody disagrees.
set -euo pipefail
# shellcheck source=images/steps.sh
source "$(dirname "$0")/../images/steps.sh"
# shellcheck source=loadtest/fleet.sh
source "$(dirname "$0")/fleet.sh"

K6=$CACHE/parts/bin/k6
FAULTS="scale stop kill leader pause nginx envoy etcd garbage"
# Requests a second: enough to meet every gap of 10 ms, and nothing for any machine.
RATE=100
# Seconds for which a step of the tour stands on a terminal.
READING=12
OUT=
LOAD=

main() {
  local mode=${1:-} fault=${2:-}
  [[ $mode == demo || $mode == break ]] || fail "loadtest/tour.sh demo, or break [$(tr ' ' '|' <<<"$FAULTS")]"
  # shellcheck disable=SC2086 # a list of words
  [[ $mode == demo ]] || fault=${fault:-$(shuf -n 1 -e $FAULTS)}
  [[ $mode == demo || " $FAULTS " == *" $fault "* ]] || fail "there is no fault '$fault'; there are: $FAULTS"
  need_engine
  load_settings
  need curl=curl
  "$ROOT/images/parts.sh" k6 2>/dev/null || "$ROOT/images/parts.sh" k6
  fleet_is "${COMPOSE_PROJECT_NAME:-muster}" "$(setting MUSTER_BIND)" "$(setting MUSTER_PORT)"
  NODES=$(living | wc -l)
  ((NODES > 1)) || fail "at least two nodes must run to lose one: make up"
  muster verify --wait 30 >/dev/null || fail "the fleet is not well to begin with: make check says why"
  OUT=$(mktemp -d)
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  count_begins
  "tour_$mode" "$fault"
  judge
}

tour_demo() {
  tell "$NODES nodes, three members of etcd, two Envoys behind one port. k6 sends $RATE requests a second until the end."
  show
  act scale && show
  act stop && show
  act kill && show
  act leader && show
  act pause && show
  act nginx && show
  act envoy && show
  act etcd && show
  act garbage
  tell "and everything as it was"
  fleet_restore "$NODES"
}

tour_break() {
  act "$1"
  fleet_restore "$NODES"
}

# act FAULT: says what happens and what to look for, does it, heals it, and says what clients noticed so far.
act() {
  "do_$1"
  said_so_far
}

do_scale() {
  tell "scale to $((NODES + 2)): a node registers when its nginx answers, and everybody's list has it at once"
  fleet_up "$((NODES + 2))"
  await --count "$((NODES + 2))"
}

do_stop() {
  local node
  node=$(a_node follower)
  tell "stop $(name "$node"): it withdraws, waits for Envoy's word, serves on for half a second, and goes"
  docker stop "$node" >/dev/null
  back "$node"
}

do_kill() {
  local node
  node=$(a_node follower)
  tell "kill $(name "$node"): its stream to the leader closes without a goodbye"
  gone_by kill "$node"
  back "$node"
}

do_leader() {
  local node
  node=$(a_node leader)
  tell "kill the leader, $(name "$node"): the next in line deposes it; Envoy keeps what it was told"
  gone_by kill "$node"
  await --leader
  back "$node"
}

do_pause() {
  local node
  node=$(a_node follower)
  tell "freeze $(name "$node"): Envoy asks somebody else after 150 ms; two renewals that do not come take it off the list"
  gone_by pause "$node"
  docker unpause "$node" >/dev/null
  await --count "$(living | wc -l)"
}

do_nginx() {
  local node
  node=$(a_node follower)
  tell "kill nginx inside $(name "$node"): muster is PID 1, takes the node off the list, and starts nginx again"
  docker exec "$node" sh -c 'kill -9 $(cat /run/muster/nginx.pid)'
  await --count "$(living | wc -l)"
}

do_envoy() {
  local envoy
  envoy=$(containers "" envoy-a)
  tell "kill one of the two Envoys: its connections end, a client that asks again meets the other, and so do new ones"
  docker kill "$envoy" >/dev/null
  docker start "$envoy" >/dev/null
  await --envoy "$(setting ENVOY_ID)-a"
}

do_etcd() {
  local member
  member=$(containers "" etcd2)
  tell "stop a member of etcd: two of three are a majority"
  docker stop -t 5 "$member" >/dev/null
  await --leader --count "$(living | wc -l)"
  docker start "$member" >/dev/null
  muster check --wait 60 >/dev/null 2>&1 || fail "etcd did not come back: make check says why"
}

do_garbage() {
  tell "write garbage into the registry: it is skipped, counted, and hides nobody"
  "${COMPOSE[@]}" run --rm -T etcd-root etcdctl put /muster/nodes/garbage '<script>alert(1)</script>' >>"$OUT/log" 2>&1
  # It is to find a difference here, and says so by its exit code.
  muster verify --wait 5 | tail -n 2 >&2 || true
  "${COMPOSE[@]}" run --rm -T etcd-root etcdctl del /muster/nodes/garbage >>"$OUT/log" 2>&1
}

# gone_by COMMAND ID: and says how long the list still had it.
gone_by() {
  local address began
  address=$(address_of "$2")
  began=$(seconds)
  docker "$1" "$2" >/dev/null
  await --gone "$address"
  say "  $address is off the list $(since "$began") after the command began"
}

# back ID: a container that was ended is started again, and listed under a new life.
back() {
  docker start "$1" >/dev/null
  await --count "$(living | wc -l)"
}

# await WHAT...: as muster wait has it, in a minute at most.
await() { muster wait "$@" --timeout 60 >/dev/null; }

# muster COMMAND...: in a node that is awake.
muster() {
  local node
  node=$(living | head -n 1 | cut -d' ' -f1)
  timeout 90 docker exec "$node" muster "$@"
}

# a_node leader|follower: its container.
a_node() {
  local instance id
  # 3: known, and not healthy, such as an Envoy on its way to another leader.
  instance=$({ muster status -o tsv || (($? == 3)); } | awk -F'\t' -v role="$1" 'NR > 1 && ($3 == "leader") == (role == "leader") { print $1; exit }')
  for id in $(containers "" nginx); do
    [[ $id != "$instance" ]] || { echo "$id"; return; }
  done
  fail "there is no $1 to take"
}

name() { docker inspect -f '{{.Name}}' "$1" | tr -d /; }
tell() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }

# The fleet as it is, and on a terminal the clients' count beside it for as long as people read.
show() {
  local left
  # While something is broken it exits with 3, and is here to be looked at.
  muster status >&2 || true
  [[ -t 2 ]] || return 0
  for ((left = READING; left > 0; left -= 1)); do
    printf '\r  clients so far: %s requests answered, %s lost ' "$(counted answered)" "$(counted lost)" >&2
    sleep 1
  done
  printf '\n' >&2
}

# k6 counts from here to the end, and is asked over its own port meanwhile.
count_begins() {
  local port deadline=$((SECONDS + 30))
  port=$(shuf -i 20000-32000 -n 1)
  API=http://127.0.0.1:$port
  TARGET=$URL RATE=$RATE DURATION=1800 "$K6" run --quiet --no-usage-report --no-color --address "127.0.0.1:$port" \
    "$ROOT/loadtest/scenarios/tour.js" >"$OUT/totals" 2>"$OUT/k6.log" &
  LOAD=$!
  until (($(counted answered) > 0)); do
    if ! kill -0 "$LOAD" 2>/dev/null || ((SECONDS >= deadline)); then
      fail "k6 did not start: $(tail -n 3 "$OUT/k6.log")"
    fi
    sleep 0.2
  done
}

# counted METRIC: how often so far; nothing yet is 0.
counted() {
  local answer
  answer=$(curl --noproxy '*' --silent --max-time 2 "$API/v1/metrics/$1" | grep -o '"count":[0-9]*' | cut -d: -f2 || true)
  echo "${answer:-0}"
}

said_so_far() { say "  clients so far: $(counted answered) requests answered, $(counted lost) lost"; }

# The fleet first: what is not well is told even when no request was lost.
judge() {
  local verdict=0 answered lost slowest
  muster verify --wait 60 >&2 || verdict=$?
  kill -INT "$LOAD"
  # Interrupted, as it should: what it counted is in its totals.
  wait "$LOAD" || true
  LOAD=
  read -r answered lost slowest <"$OUT/totals" || fail "k6 left no totals: $(tail -n 3 "$OUT/k6.log")"
  printf '%s requests, %s lost, the slowest took %s ms\n' "$((answered + lost))" "$lost" "$slowest"
  if ((lost > 0)); then
    tail -n 5 "$OUT/k6.log" >&2
    exit 3
  fi
  ((verdict == 0)) || exit 3
  say "nothing broke"
}

clean_up() {
  trap '' INT TERM HUP
  # On every way out: what has ended already is no failure, and the first reason is the one to be told.
  [[ -z $LOAD ]] || kill "$LOAD" 2>/dev/null || true
  [[ -z ${PROJECT:-} ]] || fleet_restore "$NODES" || true
  [[ -z $OUT ]] || rm -rf "$OUT"
}

main "$@"
