#!/usr/bin/env bash
# Breaks the running fleet in every way while k6 counts what clients notice: loadtest/tour.sh demo
#
# A tour of about three minutes. It begins with and leaves a complete fleet, and exits with 3 when a request was lost or
# registry, files and Envoys disagree.
set -euo pipefail
# shellcheck source=images/steps.sh
source "$(dirname "$0")/../images/steps.sh"
# shellcheck source=loadtest/fleet.sh
source "$(dirname "$0")/fleet.sh"
# shellcheck source=scripts/kernel.sh
source "$ROOT/scripts/kernel.sh"
# shellcheck source=scripts/tls.sh
source "$ROOT/scripts/tls.sh"
# shellcheck source=scripts/faults.sh
source "$ROOT/scripts/faults.sh"

K6=$CACHE/parts/bin/k6
# Requests a second: enough to meet every gap of 10 ms, and nothing for any machine.
RATE=100
# Seconds for which a step of the tour stands on a terminal.
READING=12
OUT=
LOAD=

main() {
  [[ ${1:-} == demo ]] || fail "loadtest/tour.sh demo"
  need_engine
  find_project
  compose_files
  need curl=curl
  "$ROOT/images/parts.sh" k6 2>/dev/null || "$ROOT/images/parts.sh" k6
  fleet_is "$PROJECT" "$(setting MUSTER_BIND)" "$(setting MUSTER_PORT)"
  NODES=$(living | wc -l)
  ((NODES > 1)) || fail "at least two nodes must run to lose one: make up"
  in_a_node verify --wait 30 >/dev/null || fail "the fleet is not well to begin with: make check says why"
  OUT=$(mktemp -d)
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  count_begins
  tour_demo
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
  heal
}

# act FAULT: says what happens and what to look for, does it, heals it, and says what clients noticed so far.
act() {
  "do_$1"
  said_so_far
}


# The fleet as it is, and on a terminal the clients' count beside it for as long as people read.
show() {
  local left
  # While something is broken it exits with 3, and is here to be looked at.
  in_a_node status >&2 || true
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
  in_a_node verify --wait 60 >&2 || verdict=$?
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
  [[ -z ${PROJECT:-} ]] || heal || true
  [[ -z $OUT ]] || rm -rf "$OUT"
}

main "$@"
