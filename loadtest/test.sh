#!/usr/bin/env bash
# The load tests, tested: that they can fail, and that the fleet passes them at reduced length. About six minutes.
#
# Latency is not judged here, because a machine that runs tests is busy; a lost request is one on any machine.
set -euo pipefail
# shellcheck source=images/steps.sh
source "$(dirname "$0")/../images/steps.sh"
# shellcheck source=loadtest/fleet.sh
source "$(dirname "$0")/fleet.sh"

HERE=$ROOT/loadtest
LOG=$CACHE/loadtest.log

main() {
  : >"$LOG"
  "$ROOT/images/parts.sh" k6 2>>"$LOG" || fail "no k6: $(tail -n 1 "$LOG")"
  refuses_other_hosts
  refuses_bad_usage
  a_missed_threshold_fails
  trap fleet_down EXIT
  trap 'exit 130' INT TERM
  fleet_new
  fleet_up 3
  a_difference_fails
  reduced stop kill pause --duration 20
  reduced scale --duration 32 --sizes 5,2
  reduced edge-kill edge-stop --duration 24
  reduced roll --duration 110
  a_fault_on_the_tour leader envoy garbage
}

# a_fault_on_the_tour FAULT...: `make break` on this fleet.
a_fault_on_the_tour() {
  local fault port=${URL##*:}
  for fault; do
    COMPOSE_PROJECT_NAME=$PROJECT MUSTER_PORT=$port "$ROOT/scripts/break.sh" "$fault" >>"$LOG" 2>&1 ||
      fail "make break FAULT=$fault: $(tail -n 5 "$LOG")"
    say "make break FAULT=$fault breaks nothing"
  done
}

# Load never leaves this machine, whatever a script is given.
refuses_other_hosts() {
  local script
  for script in "$HERE"/scenarios/*.js; do
    inspect "$script" http://127.0.0.1:8080 || fail "$script is not a k6 script: $(tail -n 3 "$LOG")"
    ! inspect "$script" http://192.0.2.1:8080 || fail "$script accepts a foreign target"
    ! grep -nE "from 'https?:" "$script" || fail "$script imports from the network"
  done
  script=$HERE/peers/load.js
  inspect "$script" http://172.18.0.2:8080 || fail "$script is not a k6 script: $(tail -n 3 "$LOG")"
  ! inspect "$script" http://192.0.2.1:8080 || fail "$script accepts a foreign target"
  say "every scenario is sound and refuses a foreign target"
}

inspect() {
  env SCENARIO=test TARGET="$2" RATE=10 NODES=3 DURATION=10 WARM=1 STEADY=3 EVENT=3 PARTS=warm:1 RESULTS="$CACHE" \
    "$CACHE/parts/bin/k6" inspect --include-system-env-vars "$1" >>"$LOG" 2>&1
}

refuses_bad_usage() {
  local arguments
  for arguments in "" nonsense "smoke --rate 0" "smoke --threshold" "scale --sizes 3-6"; do
    # shellcheck disable=SC2086 # several words on purpose
    expect 2 "$HERE/run.sh" $arguments
  done
  expect 2 "$HERE/peers/run.sh" --only nonsense
  expect 2 "$HERE/peers/run.sh" --rounds 0
}

# On a fleet of its own, so that starting and removing it is tested too.
a_missed_threshold_fails() {
  expect 3 "$HERE/run.sh" smoke --duration 5 --no-latency --threshold 'latency:max<0.001'
  grep -q "^MISSED  the caller's own" "$LOG" || fail "the missed threshold is not told: $(tail -n 20 "$LOG")"
  PROJECT=$(sed -n 's/^fleet: its own, project \([a-z0-9-]*\),.*/\1/p' "$LOG" | tail -n 1)
  [[ -n $PROJECT && -z $(containers -a) ]] || fail "containers were left behind: project $PROJECT"
  say "a threshold that must fail fails, and nothing is left behind"
}

# A key that somebody put by hand: no agent lists it, because it has no lease, and the registry holds it.
a_difference_fails() {
  local key=/muster/nodes/ghost-0123456789abcdef
  expect 0 "$HERE/verify.sh" "$PROJECT" "$URL" --wait 60
  as_root put "$key" '{"v":1,"state":"serving","ip":"192.0.2.1"}'
  expect 3 "$HERE/verify.sh" "$PROJECT" "$URL"
  as_root del "$key"
  expect 0 "$HERE/verify.sh" "$PROJECT" "$URL" --wait 60
  say "a difference between registry and engine is found"
}

as_root() {
  "${COMPOSE[@]}" run --rm --no-deps -T etcd-root etcdctl "$@" >>"$LOG" 2>&1 || fail "etcdctl $1: $(tail -n 3 "$LOG")"
}

reduced() {
  local started
  started=$(seconds)
  FLEET=running COMPOSE_PROJECT_NAME=$PROJECT MUSTER_BIND=127.0.0.1 MUSTER_PORT=${URL##*:} \
    expect 0 "$HERE/run.sh" "$@" --rate 100 --no-latency
  say "$* ($(since "$started"))"
}

# expect CODE COMMAND...
expect() {
  local wanted=$1 code=0
  shift
  echo "== $*" >>"$LOG"
  "$@" >>"$LOG" 2>&1 || code=$?
  ((code == wanted)) || fail "$* ended with $code, expected $wanted: $(tail -n 40 "$LOG")"
}

main "$@"
