#!/usr/bin/env bash
# The same nodes and the same client before several balancers: loadtest/peers/run.sh [--rounds N] [--page] ...
#
# What is compared, how, and what is not: README.md beside this file.
set -euo pipefail
# shellcheck source=images/steps.sh
source "$(dirname "$0")/../../images/steps.sh"
# shellcheck source=loadtest/fleet.sh
source "$ROOT/loadtest/fleet.sh"
# shellcheck source=loadtest/faults.sh
source "$ROOT/loadtest/faults.sh"
# shellcheck source=loadtest/beside.sh
source "$ROOT/loadtest/beside.sh"
# shellcheck source=loadtest/report.sh
source "$ROOT/loadtest/report.sh"
# shellcheck source=loadtest/peers/turn.sh
source "$ROOT/loadtest/peers/turn.sh"

HERE=$ROOT/loadtest/peers
K6=$CACHE/parts/bin/k6
WRK=$CACHE/parts/bin/wrk
ALL="muster envoy-dns haproxy nginx caddy"

usage() {
  cat >&2 <<USAGE
loadtest/peers/run.sh [--rounds N] [--rate N] [--only NAME,NAME] [--page]

  --rounds  each balancer so many turns, interleaved; a turn is about a minute (5)
  --rate    requests a second (400)
  --only    some of ${ALL// /, }
  --page    write docs/comparison.md and docs/comparison.svg with the result
Exit: 0 measured, 1 it could not, 2 usage, 130 interrupted.
USAGE
  exit 2
}

main() {
  options "$@"
  need_engine
  need curl=curl python3=python3
  "$ROOT/images/parts.sh" k6 wrk 2>/dev/null || "$ROOT/images/parts.sh" k6 wrk
  docker compose version >/dev/null 2>&1 || "$ROOT/images/parts.sh" compose
  "$ROOT/images/build.sh" node etcd envoy peers
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  fleet_new
  fleet_is "muster-peers-$$" 127.0.0.1 "${URL##*:}"
  COMPOSE=(env MUSTER_NODES=10 MUSTER_SITE_DIR=./loadtest/peers/site ENVOY_CONCURRENCY=1 "${COMPOSE[@]}" -f "$ROOT/compose.yaml" -f "$HERE/compose.yaml")
  local result round turn order
  result=$ROOT/loadtest/results/peers-$(date +%Y%m%d-%H%M%S)
  mkdir -p "$result"
  start_all
  NODES=10 K6=$K6 describe_all >"$result/environment.json"
  for ((round = 1; round <= ROUNDS; round += 1)); do
    # Each round begins with another one, so that no balancer always follows the same.
    order=("${WANTED[@]:(round - 1) % ${#WANTED[@]}}" "${WANTED[@]:0:(round - 1) % ${#WANTED[@]}}")
    for ME in "${order[@]}"; do
      turn=$(seconds)
      OUT=$result/$round-$ME
      say "== round $round, $ME"
      one_turn "$round"
      say "== round $round, $ME: $(since "$turn")"
    done
  done
  python3 "$HERE/results.py" "$result"
  [[ $PAGE == no ]] || python3 "$HERE/page.py" "$result"
  say "results: ${result#"$ROOT/"}"
}

options() {
  local name
  ROUNDS=5 RATE=400 PAGE=no
  read -ra WANTED <<<"$ALL"
  while (($# > 0)); do
    case $1 in
      --rounds) [[ ${2:-} =~ ^[1-9][0-9]?$ ]] || usage; ROUNDS=$2 ;;
      --rate) [[ ${2:-} =~ ^[1-9][0-9]{1,3}$ ]] || usage; RATE=$2 ;;
      --only)
        IFS=, read -ra WANTED <<<"${2:-}"
        ((${#WANTED[@]} > 0)) || usage
        for name in "${WANTED[@]}"; do [[ " $ALL " == *" $name "* ]] || usage; done ;;
      --page) PAGE=yes; shift; continue ;;
      *) usage ;;
    esac
    shift 2
  done
}

# etcd runs throughout, because the nodes need it whoever asks them; nodes and balancers are made and wait.
start_all() {
  timeout 180 "${COMPOSE[@]}" up --no-start --no-build >"$CACHE/load.log" 2>&1 ||
    fail "the containers could not be made: $(tail -n 3 "$CACHE/load.log")"
  # By Compose, which knows what has to be there first: certificates, and then users.
  timeout 180 "${COMPOSE[@]}" up -d --no-build --no-recreate etcd1 etcd2 etcd3 etcd-auth >"$CACHE/load.log" 2>&1 ||
    fail "etcd did not start: $(tail -n 3 "$CACHE/load.log")"
}

# As for every other load test; the versions of the others are asked of their images.
describe_all() {
  local envoy
  three_nodes
  envoy=$(docker ps -aq --filter "label=com.docker.compose.project=$PROJECT" --filter label=com.docker.compose.service=envoy)
  docker start "$envoy" >/dev/null
  environment peers | sed '$d' | sed '$s/$/,/'
  docker kill "$envoy" >/dev/null
  pair haproxy "$(sed -n 2p "$CACHE/parts/haproxy.made")"
  pair nginx_proxy "$(sed -n 2p "$CACHE/parts/proxy.made")"
  pair caddy "$(sed -n 2p "$CACHE/parts/caddy.made")"
  pair wrk "$(sed -n 2p "$CACHE/parts/wrk.made")"
  pair rate "$RATE"
  pair parts "$PARTS"
  printf '  "rounds": "%s"\n}\n' "$ROUNDS"
}

clean_up() {
  trap '' INT TERM HUP
  end_beside
  [[ -z ${PROJECT:-} ]] || fleet_down
}

main "$@"
