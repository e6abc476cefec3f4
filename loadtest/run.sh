#!/usr/bin/env bash
# Load on a fleet, something that happens to it meanwhile, and the question who agrees afterwards.
set -euo pipefail
# shellcheck source=images/steps.sh
source "$(dirname "$0")/../images/steps.sh"
# shellcheck source=loadtest/fleet.sh
source "$(dirname "$0")/fleet.sh"
# shellcheck source=loadtest/faults.sh
source "$(dirname "$0")/faults.sh"
# shellcheck source=loadtest/beside.sh
source "$(dirname "$0")/beside.sh"
# shellcheck source=loadtest/report.sh
source "$(dirname "$0")/report.sh"

HERE=$ROOT/loadtest
K6=$CACHE/parts/bin/k6
SCENARIOS="smoke steady knee scale stop kill pause leader etcd list soak edge-kill edge-stop roll"
# How long all parts may take to agree after the load: a lease's 5 s, an etcd election on top, a busy machine.
PATIENCE=${MUSTER_PATIENCE:-60}

usage() {
  cat >&2 <<USAGE
loadtest/run.sh SCENARIO... [--rate N] [--duration SECONDS] [--nodes N] [--runs N] [--sizes N,N,...]
                            [--no-latency] [--threshold METRIC:EXPRESSION]

  SCENARIO     ${SCENARIOS// /, }
  --rate       requests a second (400; smoke 10, list 100)
  --duration   of the load, in seconds
  --nodes      to begin with (3)
  --runs       each scenario so many times, in turn (1)
  --sizes      for scale (6,2,10,1)
  --no-latency judge losses and agreement only: for a machine that is busy with other things
  --threshold  one more k6 threshold, such as 'latency:p(99)<20'

FLEET=running  use the fleet of \`make up\` (COMPOSE_PROJECT_NAME, MUSTER_PORT) instead of one of its own.
Exit: 0 fine, 1 it could not run, 2 usage, 3 a mark missed or a difference found, 4 nothing can be said, 130 interrupted.
USAGE
  exit 2
}

main() {
  options "$@"
  need_engine
  load_settings
  need curl=curl
  "$ROOT/images/parts.sh" k6 2>/dev/null || "$ROOT/images/parts.sh" k6
  docker compose version >/dev/null 2>&1 || "$ROOT/images/parts.sh" compose
  # Every way out goes through here.
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  start_fleet
  local scenario run worst=0 code stamp rows=()
  stamp=$(date +%Y%m%d-%H%M%S)
  for ((run = 1; run <= RUNS; run += 1)); do
    for scenario in "${WANTED[@]}"; do
      OUT=$HERE/results/$stamp-$scenario-$run
      rows+=("$OUT/row")
      code=0
      one_run "$scenario" || code=$?
      ((code <= worst)) || worst=$code
    done
  done
  ((${#rows[@]} == 1)) || print_rows "${rows[@]}"
  return "$worst"
}

options() {
  WANTED=() RATE='' LENGTH='' NODES=3 RUNS=1 SIZES=6,2,10,1 LATENCY=yes THRESHOLD=''
  while (($# > 0)); do
    case $1 in
      --rate) RATE=$(whole "$1" "${2:-}" 20000) || exit 2 ;;
      --duration) LENGTH=$(whole "$1" "${2:-}" 86400) || exit 2 ;;
      --nodes) NODES=$(whole "$1" "${2:-}" 50) || exit 2 ;;
      --runs) RUNS=$(whole "$1" "${2:-}" 100) || exit 2 ;;
      --sizes) [[ ${2:-} =~ ^[1-9][0-9]?(,[1-9][0-9]?)*$ ]] || usage; SIZES=$2 ;;
      --threshold) [[ ${2:-} == *?:?* ]] || usage; THRESHOLD=$2 ;;
      --no-latency) LATENCY=no; shift; continue ;;
      -*) usage ;;
      *) [[ " $SCENARIOS " == *" $1 "* ]] || usage; WANTED+=("$1"); shift; continue ;;
    esac
    shift 2
  done
  ((${#WANTED[@]} > 0)) || usage
}

whole() {
  [[ $2 =~ ^[1-9][0-9]{0,5}$ ]] && (($2 <= $3)) && { echo "$2"; return; }
  say "$1 is '$2', allowed is a whole number from 1 to $3"
  return 1
}

start_fleet() {
  if [[ ${FLEET:-} == running ]]; then
    fleet_is "${COMPOSE_PROJECT_NAME:-muster}" "$(setting MUSTER_BIND)" "$(setting MUSTER_PORT)"
    NODES=$(living | wc -l)
    ((NODES > 0)) || fail "no fleet runs in project $PROJECT: make up, or leave FLEET=running out"
    say "fleet: the running one, project $PROJECT, $NODES nodes, $URL"
  else
    local image
    for image in MUSTER_NODE_TAG MUSTER_ETCD_TAG MUSTER_ENVOY_TAG MUSTER_FRONT_TAG; do
      docker image inspect "$(setting "$image")" >/dev/null 2>&1 || fail "no image $(setting "$image"): make images"
    done
    fleet_new
    OWN=yes
    say "fleet: its own, project $PROJECT, $NODES nodes, $URL"
    fleet_up "$NODES"
  fi
}

clean_up() {
  trap '' INT TERM HUP
  end_beside
  if [[ ${OWN:-} == yes ]]; then
    fleet_down
  elif [[ -n ${PROJECT:-} ]]; then
    fleet_restore "$NODES" || true
  fi
}

# What each scenario takes unless told otherwise, and how its time is divided: see lib/config.js.
divide_time() {
  local length rate=400 rest
  case $1 in
    smoke) length=12 rate=10 ;;
    steady) length=44 ;;
    knee) length=70 ;;
    scale) length=60 ;;
    list) length=60 rate=100 ;;
    etcd) length=72 ;;
    soak) length=1800 ;;
    roll) length=120 ;;
    *) length=40 ;;
  esac
  DURATION=${LENGTH:-$length}
  REQUESTS=${RATE:-$rate}
  WARM=$((DURATION / 10))
  WARM=$((WARM < 1 ? 1 : WARM > 4 ? 4 : WARM))
  rest=$((DURATION - WARM))
  case $1 in
    smoke | steady | knee) STEADY=$rest EVENT=0 ;;
    # Steady and event are equally long: the worst of a longer time is worse.
    stop | kill | pause | leader | edge-*) STEADY=$((rest / 3)) EVENT=$((rest / 3)) ;;
    *) STEADY=$((rest / 4 > 12 ? 12 : rest / 4)) EVENT=$((rest - STEADY)) ;;
  esac
  # A second later than the part called event begins, so that no request that the fault meets counts as steady.
  EVENT_AT=$((WARM + STEADY + 1))
  AFTER_AT=$((WARM + STEADY + EVENT))
}

one_run() {
  local scenario=$1 code=0 verdict=0
  divide_time "$scenario"
  mkdir -p "$OUT"
  : >"$OUT/events"
  fleet_restore "$NODES"
  say "== $scenario, $REQUESTS requests a second for $DURATION s"
  "$HERE/verify.sh" "$PROJECT" "$URL" --wait "$PATIENCE" >"$OUT/before" || { cat "$OUT/before" >&2; fail "the fleet is not complete"; }
  environment "$scenario" >"$OUT/environment.json"
  ENVIRONMENT=$OUT/environment.json describe >&2
  envoy_counters >"$OUT/envoy.before"
  [[ $scenario != soak ]] || memory >"$OUT/memory.before"
  load "$scenario" || code=$?
  [[ $scenario != soak ]] || memory_grown || verdict=3
  [[ $scenario != list ]] || list_times
  "$HERE/verify.sh" "$PROJECT" "$URL" --wait "$PATIENCE" >"$OUT/after" || { verdict=$?; tail -n 15 "$OUT/commands.log" >&2 || true; }
  cat "$OUT/after"
  evidence
  echo "report: ${OUT#"$ROOT/"}/report.html"
  ((verdict <= code)) || code=$verdict
  ((code == 0)) || say "== $scenario: not passed ($code)"
  return "$code"
}

# k6 and the fault, side by side.
load() {
  local scenario=$1 code=0 happened=0
  local direct
  direct=$(living | head -n 1 | cut -d' ' -f2)
  env SCENARIO="$scenario" TARGET="$URL" DIRECT="http://$direct:8080" RATE="$REQUESTS" NODES="$NODES" DURATION="$DURATION" \
    WARM="$WARM" STEADY="$STEADY" EVENT="$EVENT" LATENCY="$LATENCY" THRESHOLD="$THRESHOLD" RESULTS="$OUT" \
    ENVIRONMENT="$OUT/environment.json" K6_WEB_DASHBOARD=true K6_WEB_DASHBOARD_PORT=-1 K6_WEB_DASHBOARD_PERIOD=1s \
    K6_WEB_DASHBOARD_EXPORT="$OUT/report.html" \
    timeout -k 10 $((DURATION + 90)) "$K6" run --quiet --no-usage-report --no-color --address '' \
    --console-output "$OUT/requests.log" "$HERE/scenarios/$scenario.js" 2>"$OUT/k6.log" &
  LOAD=$!
  load_has_begun 60
  "fault_${scenario//-/_}" &
  FAULT=$!
  wait "$LOAD" || code=$?
  LOAD=
  sampling_ends
  if kill -0 "$FAULT" 2>/dev/null; then
    say "the event outlasted the load: give it a longer --duration"
    wait "$FAULT" || true
    happened=1
  else
    wait "$FAULT" || happened=1
  fi
  FAULT=
  machine
  ((happened == 0)) || return 1
  case $code in
    0) [[ $(cat "$OUT/verdict") == ok ]] || return 3 ;;
    99) return 3 ;;
    *) fail "k6 ended with $code: $(tail -n 5 "$OUT/k6.log")" ;;
  esac
}

main "$@"
