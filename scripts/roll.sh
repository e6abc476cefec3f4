#!/bin/sh
# make roll: replaces what is out of date (image, settings) while requests go on, one container at a time.
#
# Nodes start first and the old one stops when the new one is routed to, the leader last; then each Envoy beside the other;
# then the members of etcd. It waits for what it needs to know and never for a time, stops at the first that does not come
# up, and finishes when it is run again. ALL=yes replaces what is not out of date too. `front` stays: who replaces it resets every connection.
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
cd "$ROOT"

LOG=$CACHE/roll.log
# A container that was started and is not confirmed yet: it goes again when this ends early.
FRESH=
ROLLED=0

main() {
  started=$(seconds)
  need_engine
  find_project
  # When it began, and with how many nodes: a run that was interrupted goes on with both.
  STATE=$CACHE/roll-$PROJECT
  compose_files
  trap 'forget_fresh; release' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  alone "make roll"
  step "1/5 checked" ready_to_roll
  step "2/5 images and certificates" renew_inputs
  step "3/5 nodes" roll_nodes
  step "4/5 Envoys" roll_envoys
  step "5/5 etcd" roll_members
  rm -f "$STATE"
  say_front
  say "rolled $ROLLED containers in $(since "$started")"
}

# step WHAT COMMAND
step() {
  step_began=$(seconds)
  step_before=$ROLLED
  "$2"
  replaced=
  [ "$ROLLED" = "$step_before" ] || replaced=", $((ROLLED - step_before)) replaced"
  say "$1$replaced ($(since "$step_began"))"
}

ready_to_roll() {
  tls_check
  docker compose config --quiet || fail "compose.yaml or .env does not hold together, see above"
  if [ -z "$(containers "" nginx)" ] || [ -z "$(containers "" front)" ]; then fail "no fleet runs here (project $PROJECT): make up"; fi
  # Compose starts nothing beside a paused container.
  paused=$(docker ps --filter "label=com.docker.compose.project=$PROJECT" --filter status=paused --format '{{.Names}}' | tr '\n' ' ')
  [ -z "$paused" ] || fail "paused: ${paused}- docker unpause ${paused}first"
  remember_size
  [ -z "${ALL:-}" ] || OLDER_THAN=$(cut -d' ' -f1 "$STATE")
  logged wait --leader --timeout "$PATIENCE" || fail "no node leads, so no acknowledgement can be waited for: make check says why"
}

# An interruption leaves one node more than there were, and nothing else is taken for one.
remember_size() {
  count=$(count_of "$(containers "" nginx)")
  if [ -s "$STATE" ] && read -r began before all <"$STATE" && [ -n "$began" ] && [ "$all" = "${ALL:-no}" ]; then
    if [ "$before" = "$count" ] || [ "$((before + 1))" = "$count" ]; then return; fi
  fi
  # As the engine writes it; busybox knows no fractions.
  echo "$(date -u +%Y-%m-%dT%H:%M:%S.999999999Z) $count ${ALL:-no}" >"$STATE"
}

renew_inputs() {
  make_images
  hashes
  one_shot pki
  one_shot etcd-auth
}

# one_shot SERVICE: makes what is missing and touches nothing that is there.
one_shot() {
  compose up -d --no-build --no-deps "$1" || fail "$1 did not start: $(tail -n 3 "$LOG")"
  code=$(bounded 60 docker wait "$(containers -a "$1")") || fail "$1 did not end in 60 s: docker compose logs $1"
  [ "$code" = 0 ] || fail "$1 ended with $code: $(docker compose logs --no-log-prefix --tail 3 "$1" 2>&1)"
}

roll_nodes() {
  wanted=$(cut -d' ' -f2 "$STATE")
  read_marks
  while :; do
    settle_ended
    old=$(next_node)
    [ -n "$old" ] || break
    replace_node
  done
  finish_size
}

# Nodes that have ended: Compose would start them where a new one is meant.
settle_ended() {
  for id in $(containers -a nginx exited) $(containers -a nginx created) $(containers -a nginx dead); do
    say "  $id has ended: removed (make scale brings back the number)"
    # It may have been removed meanwhile.
    docker rm -f "$id" >/dev/null || true
  done
}

# Nodes that were taken out by hand: no Envoy routes to them, and that is meant.
read_marks() {
  for member in $MEMBERS; do
    if MARKED=$(docker exec "$(containers "" "$member")" etcdctl get --prefix /muster/marks/ --keys-only 2>>"$LOG"); then
      MARKED=$(printf '%s\n' "$MARKED" | sed -n 's|^/muster/marks/||p')
      return
    fi
  done
  fail "etcd does not say which nodes are drained by hand: make check"
}

is_marked() { printf '%s\n' "$MARKED" | grep -qxF "$1"; }

# The next one to be replaced, the leader last; empty when there is none.
next_node() {
  leader=$(leader_of || true)
  last=
  for id in $(containers "" nginx); do
    ! is_marked "$id" || continue
    [ -n "$(why_outdated "$id")" ] || continue
    [ "$id" = "$leader" ] || { echo "$id"; return; }
    last=$id
  done
  echo "$last"
}

# replace_node: OLD, with another one started before it where there are no more than WANTED.
replace_node() {
  why=$(why_outdated "$old")
  if [ "$(count_of "$(containers "" nginx)")" -le "$wanted" ]; then start_fresh; fi
  # One that is new, from this run or from one that was interrupted, must be routed to before an old one goes.
  for id in $(containers "" nginx | grep -vxF "${FRESH:-none}" || true) $FRESH; do
    ! is_marked "$id" || continue
    [ -z "$(why_outdated "$id")" ] || continue
    code=0
    routed_to "$id" || code=$?
    [ "$code" != 1 ] || came_not_up "$id" "$old"
    # Ended from outside: that proves nothing about what it is made of.
    if [ "$code" != 0 ]; then
      [ "$id" != "$FRESH" ] || FRESH=
      return 0
    fi
  done
  FRESH=
  # It may have been ended meanwhile.
  docker stop "$old" >/dev/null 2>>"$LOG" || true
  docker rm -f "$old" >/dev/null 2>>"$LOG" || true
  say "  $old $why, replaced"
  ROLLED=$((ROLLED + 1))
}

# Sets FRESH also when Compose fails: what it has started has to go again.
start_fresh() {
  before=$(containers -a nginx)
  failed=
  compose up -d --no-build --no-deps --no-recreate --scale "nginx=$(($(count_of "$before") + 1))" nginx || failed=yes
  FRESH=$(containers -a nginx | while read -r id; do printf '%s\n' "$before" | grep -qxF "$id" || echo "$id"; done)
  [ -z "$failed" ] || fail "no further node could be started: $(tail -n 3 "$LOG")"
}

# routed_to ID: 0 it is, 1 it does not come up, 2 it was ended from outside: what ends by itself is started again.
routed_to() {
  routed_end=$(($(date +%s) + PATIENCE))
  while [ "$(date +%s)" -lt "$routed_end" ]; do
    ! logged wait --node "$1" --timeout 3 || return 0
    case $(docker inspect -f '{{.State.Status}}' "$1" 2>/dev/null || echo gone) in
      created | running | restarting) ;;
      *) return 2 ;;
    esac
    # A crash loop is not worth the whole wait.
    [ "$(docker inspect -f '{{.RestartCount}}' "$1")" -lt 4 ] || return 1
  done
  return 1
}

# came_not_up NEW OLD
came_not_up() {
  said=$(docker logs --tail 20 "$1" 2>&1 | grep . | tail -n 5 || true)
  fail "$(name_of "$1") does not come up ($(docker inspect -f '{{.State.Status}}, exit code {{.State.ExitCode}}' "$1")), so $(name_of "$2") and all others stay. It said: $said"
}

# As many as there were: fewer after nodes were killed meanwhile, more after an interruption.
finish_size() {
  if [ "$(count_of "$(containers "" nginx)")" -lt "$wanted" ]; then
    compose up -d --no-build --no-deps --no-recreate --scale "nginx=$wanted" nginx || fail "back to $wanted nodes: $(tail -n 3 "$LOG")"
  fi
  for id in $(containers "" nginx | tail -n "+$((wanted + 1))"); do
    # It may have been ended meanwhile; the count below is what must hold.
    docker stop "$id" >/dev/null 2>>"$LOG" || true
    docker rm -f "$id" >/dev/null 2>>"$LOG" || true
  done
  marked=0
  for id in $(containers "" nginx); do
    is_marked "$id" || continue
    marked=$((marked + 1))
    [ -z "$(why_outdated "$id")" ] || say "  $id is drained by hand and left as it is: muster resume, then make roll again"
  done
  logged wait --count "$((wanted - marked))" --timeout "$PATIENCE" ||
    fail "$(count_of "$(containers "" nginx)") nodes run, and not $((wanted - marked)) of them are routed to after $PATIENCE s: make check"
}

roll_envoys() {
  roll_envoy envoy-a envoy-b
  roll_envoy envoy-b envoy-a
}

# roll_envoy SERVICE OTHER: stop first, because the other one holds the port.
roll_envoy() {
  id=$(containers "" "$1")
  why="does not run"
  [ -z "$id" ] || why=$(why_outdated "$id")
  [ -n "$why" ] || return 0
  [ -n "$id" ] || [ -n "$(containers "" "$2")" ] || fail "neither Envoy runs, so there is nothing to be lost: make up"
  envoy_ready "$2" || fail "$1: $why, and $2 is not ready to serve alone: docker compose logs $2"
  say "  $1: $why, replaced"
  compose up -d --no-build --no-deps --force-recreate "$1" || fail "$1 could not be started, $2 serves: $(tail -n 3 "$LOG")"
  { logged wait --envoy "$(setting ENVOY_ID)${1#envoy}" --timeout "$PATIENCE" && wait_for "$PATIENCE" envoy_ready "$1"; } ||
    fail "$1 does not come up, $2 serves. It said: $(docker compose logs --no-log-prefix --tail 3 "$1" 2>&1)"
  ROLLED=$((ROLLED + 1))
}

roll_members() {
  for member in $MEMBERS; do
    id=$(containers "" "$member")
    why="does not run"
    [ -z "$id" ] || why=$(why_outdated "$id")
    [ -n "$why" ] || continue
    # Of three, one may be away, and that is this one.
    all_healthy "$member" || fail "$member: $why, and not every other member is healthy: docker compose ps"
    say "  $member: $why, replaced"
    compose up -d --no-build --no-deps --force-recreate "$member" || fail "$member could not be started: $(tail -n 3 "$LOG")"
    all_healthy none ||
      fail "$member does not come up, the others serve. It said: $(docker compose logs --no-log-prefix --tail 3 "$member" 2>&1)"
    ROLLED=$((ROLLED + 1))
  done
}

# all_healthy BUT: each of the others answers a linearizable read.
all_healthy() {
  for each in $MEMBERS; do
    [ "$each" != "$1" ] || continue
    wait_for "$PATIENCE" member_healthy "$each" >>"$LOG" 2>&1 || return 1
  done
}

say_front() {
  OLDER_THAN=
  why=$(why_outdated "$(containers "" front)")
  [ -z "$why" ] || say "front: $why, left alone: replacing it resets every connection. When that may be: make down, then make up"
}

# logged COMMAND...: a command of muster's, in any node that is awake.
logged() { in_a_node "$@" >>"$LOG" 2>&1; }

compose() { docker compose "$@" >>"$LOG" 2>&1 </dev/null; }

# It may be routed to already, and then has to leave as all do.
forget_fresh() {
  [ -n "$FRESH" ] || return 0
  docker stop "$FRESH" >/dev/null 2>&1 || true
  docker rm -f "$FRESH" >/dev/null 2>&1 || true
}

main "$@"
