#!/usr/bin/env bash
# make roll: replaces what is out of date (image, settings) while requests go on, one container at a time.
#
# Nodes start first and the old one stops when the new one is routed to, the leader last; then each Envoy beside the other;
# then the members of etcd. It waits for what it needs to know and never for a time, stops at the first that does not come
# up, and finishes when it is run again. ALL=yes replaces what is not out of date too. `front` stays: who replaces it resets every connection.
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

MEMBERS="etcd1 etcd2 etcd3"
LOG=$CACHE/roll.log
# A container that was started and is not confirmed yet: it goes again when this ends early.
FRESH=
ROLLED=0

main() {
  local started
  started=$(seconds)
  engine_answers || fail "$(engine_complaint)"
  # When it began, and with how many nodes: a run that was interrupted goes on with both.
  STATE=$CACHE/roll-$PROJECT
  alone "make roll"
  tls_settings
  kernel_settings
  # For `list`.
  url=$(edge_url)
  trap 'forget_fresh' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
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
  local began before=$ROLLED
  began=$(seconds)
  "$2"
  say "$1$( ((ROLLED == before)) || echo ", $((ROLLED - before)) replaced") ($(since "$began"))"
}

ready_to_roll() {
  local paused
  need curl=curl
  compose_is_there
  tls_check
  docker compose config --quiet || fail "compose.yaml or .env does not hold together, see above"
  [[ -n $(containers "" nginx) && -n $(containers "" front) ]] || fail "no fleet runs here (project $PROJECT): make up"
  # Compose starts nothing beside a paused container.
  paused=$(docker ps --filter "label=com.docker.compose.project=$PROJECT" --filter status=paused --format '{{.Names}}' | tr '\n' ' ')
  [[ -z $paused ]] || fail "paused: ${paused}- docker unpause ${paused}first"
  remember_size
  [[ -z ${ALL:-} ]] || OLDER_THAN=$(cut -d' ' -f1 "$STATE")
  in_a_node wait --leader --timeout "$PATIENCE" || fail "nobody leads, so no acknowledgement can be waited for: make check says why"
}

# An interruption leaves one node more than there were, and nothing else is taken for one.
remember_size() {
  local count began before all
  count=$(containers "" nginx | wc -l)
  if [[ -s $STATE ]] && read -r began before all <"$STATE" && [[ -n $began && $all == "${ALL:-no}" ]] &&
    ((before == count || before + 1 == count)); then
    return
  fi
  echo "$(date -u +%Y-%m-%dT%H:%M:%S.%NZ) $count ${ALL:-no}" >"$STATE"
}

renew_inputs() {
  images/build.sh
  hashes
  one_shot pki
  one_shot etcd-auth
}

# one_shot SERVICE: makes what is missing and touches nothing that is there.
one_shot() {
  local code
  compose up -d --no-build --no-deps "$1" || fail "$1 did not start: $(tail -n 3 "$LOG")"
  code=$(timeout 60 docker wait "$(containers -a "$1")") || fail "$1 did not end in 60 s: docker compose logs $1"
  [[ $code == 0 ]] || fail "$1 ended with $code: $(docker compose logs --no-log-prefix --tail 3 "$1" 2>&1)"
}

roll_nodes() {
  local wanted node
  wanted=$(cut -d' ' -f2 "$STATE")
  read_marks
  while :; do
    settle_ended
    node=$(next_node)
    [[ -n $node ]] || break
    replace_node "$node" "$wanted"
  done
  finish_size "$wanted"
}

# Nodes that have ended: Compose would start them where a new one is meant.
settle_ended() {
  local id
  for id in $(docker ps -aq --filter "label=com.docker.compose.project=$PROJECT" \
    --filter label=com.docker.compose.service=nginx --filter status=exited --filter status=created --filter status=dead); do
    say "  $id has ended: removed (make scale brings back the number)"
    # Somebody else may have been quicker.
    docker rm -f "$id" >/dev/null || true
  done
}

# Nodes that somebody took out by hand: they are routed to by nobody, and that is meant.
read_marks() {
  local member
  for member in $MEMBERS; do
    ! MARKED=$(docker exec "$(containers "" "$member")" etcdctl get --prefix /muster/marks/ --keys-only 2>>"$LOG" |
      sed -n 's|^/muster/marks/||p') || return 0
  done
  fail "etcd does not say which nodes are drained by hand: make check"
}

is_marked() { grep -qxF "$1" <<<"$MARKED"; }

# The next one to be replaced, who leads last; empty when there is none.
next_node() {
  local id leader last=
  leader=$(list | leader_of || true)
  for id in $(containers "" nginx); do
    ! is_marked "$id" || continue
    [[ -n $(why_outdated "$id") ]] || continue
    [[ $id == "$leader" ]] || { echo "$id"; return; }
    last=$id
  done
  echo "$last"
}

# replace_node OLD WANTED
replace_node() {
  local old=$1 before id code why started=yes
  why=$(why_outdated "$old")
  before=$(containers -a nginx)
  if (($(containers "" nginx | wc -l) <= $2)); then
    compose up -d --no-build --no-deps --no-recreate --scale "nginx=$(($(wc -w <<<"$before") + 1))" nginx || started=
    FRESH=$(containers -a nginx | grep -vxF "$before" || true)
    [[ -n $started ]] || fail "no further node could be started: $(tail -n 3 "$LOG")"
  fi
  # Whoever is new, from this run or from one that was interrupted, must be routed to before an old one goes.
  for id in $(containers "" nginx | grep -vxF "${FRESH:-none}" || true) $FRESH; do
    ! is_marked "$id" || continue
    [[ -z $(why_outdated "$id") ]] || continue
    code=0
    routed_to "$id" || code=$?
    ((code != 1)) || came_not_up "$id" "$old"
    # Ended by somebody else: that proves nothing about what it is made of.
    ((code == 0)) || { [[ $id != "$FRESH" ]] || FRESH=; return 0; }
  done
  FRESH=
  # It may have been ended meanwhile, by somebody else.
  docker stop "$old" >/dev/null 2>>"$LOG" || true
  docker rm -f "$old" >/dev/null 2>>"$LOG" || true
  say "  $old $why, replaced"
  ROLLED=$((ROLLED + 1))
}

# routed_to ID: 0 it is, 1 it does not come up, 2 it was ended from outside: what ends by itself is started again.
routed_to() {
  local deadline=$((SECONDS + PATIENCE))
  while ((SECONDS < deadline)); do
    ! in_a_node wait --node "$1" --timeout 3 || return 0
    [[ $(docker inspect -f '{{.State.Status}}' "$1" 2>/dev/null || echo gone) =~ ^(created|running|restarting)$ ]] || return 2
    # A crash loop is not worth the whole wait.
    (($(docker inspect -f '{{.RestartCount}}' "$1") < 4)) || return 1
  done
  return 1
}

# came_not_up NEW OLD
came_not_up() {
  local said
  said=$(docker logs --tail 20 "$1" 2>&1 | grep . | tail -n 5 || true)
  fail "$(name_of "$1") does not come up ($(docker inspect -f '{{.State.Status}}, exit code {{.State.ExitCode}}' "$1")), so $(name_of "$2") and all others stay. It said: $said"
}

# As many as there were: fewer after nodes were killed meanwhile, more after an interruption.
finish_size() {
  local count id marked=0
  count=$(containers "" nginx | wc -l)
  if ((count < $1)); then
    compose up -d --no-build --no-deps --no-recreate --scale "nginx=$1" nginx || fail "back to $1 nodes: $(tail -n 3 "$LOG")"
  fi
  for id in $(containers "" nginx | tail -n +$(($1 + 1))); do
    # It may have been ended meanwhile; the count below is what must hold.
    docker stop "$id" >/dev/null 2>>"$LOG" || true
    docker rm -f "$id" >/dev/null 2>>"$LOG" || true
  done
  for id in $(containers "" nginx); do
    is_marked "$id" || continue
    marked=$((marked + 1))
    [[ -z $(why_outdated "$id") ]] || say "  $id is drained by hand and left as it is: muster resume, then make roll again"
  done
  in_a_node wait --count "$(($1 - marked))" --timeout "$PATIENCE" ||
    fail "$(containers "" nginx | wc -l) nodes run, and not $(($1 - marked)) of them are routed to after $PATIENCE s: make check"
}

roll_envoys() {
  roll_envoy envoy-a envoy-b
  roll_envoy envoy-b envoy-a
}

# roll_envoy SERVICE OTHER: stop first, because the other one holds the port.
roll_envoy() {
  local id why
  id=$(containers "" "$1")
  why="does not run"
  [[ -z $id ]] || why=$(why_outdated "$id")
  [[ -n $why ]] || return 0
  [[ -n $id || -n $(containers "" "$2") ]] || fail "neither Envoy runs, so there is nothing to be lost: make up"
  envoy_ready "$2" || fail "$1: $why, and $2 is not ready to serve alone: docker compose logs $2"
  say "  $1: $why, replaced"
  # Compose sees no change in a file that is mounted.
  compose up -d --no-build --no-deps --force-recreate "$1" || fail "$1 could not be started, $2 serves: $(tail -n 3 "$LOG")"
  { in_a_node wait --envoy "$(setting ENVOY_ID)${1#envoy}" --timeout "$PATIENCE" && eventually_ready "$1"; } ||
    fail "$1 does not come up, $2 serves. It said: $(docker compose logs --no-log-prefix --tail 3 "$1" 2>&1)"
  ROLLED=$((ROLLED + 1))
}

eventually_ready() {
  local deadline=$((SECONDS + PATIENCE))
  until envoy_ready "$1"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.2
  done
}

roll_members() {
  local member id why
  for member in $MEMBERS; do
    id=$(containers "" "$member")
    why="does not run"
    [[ -z $id ]] || why=$(why_outdated "$id")
    [[ -n $why ]] || continue
    # Of three, one may be away, and that is this one.
    all_healthy "${MEMBERS/$member/}" || fail "$member: $why, and not every other member is healthy: docker compose ps"
    say "  $member: $why, replaced"
    compose up -d --no-build --no-deps --force-recreate "$member" || fail "$member could not be started: $(tail -n 3 "$LOG")"
    all_healthy "$MEMBERS" ||
      fail "$member does not come up, the others serve. It said: $(docker compose logs --no-log-prefix --tail 3 "$member" 2>&1)"
    ROLLED=$((ROLLED + 1))
  done
}

# all_healthy MEMBERS: each answers a linearizable read.
all_healthy() {
  local deadline=$((SECONDS + PATIENCE)) member
  for member in $1; do
    until timeout 10 docker exec "$(containers "" "$member")" etcdctl endpoint health --command-timeout=2s >>"$LOG" 2>&1; do
      ((SECONDS < deadline)) || return 1
      sleep 0.2
    done
  done
}

say_front() {
  local why
  why=$(OLDER_THAN='' why_outdated "$(containers "" front)")
  [[ -z $why ]] || say "front: $why, left alone: replacing it resets every connection. When that may be: make down, then make up"
}

# in_a_node COMMAND...: a command of muster's, in any node that is awake.
in_a_node() {
  local node
  node=$(awake_node)
  [[ -n $node ]] || return 1
  # In the foreground, so that Ctrl-C reaches it.
  timeout --foreground $((PATIENCE + 10)) docker exec "$node" muster "$@" >>"$LOG" 2>&1
}

compose() { docker compose "$@" >>"$LOG" 2>&1 </dev/null; }

# It may be routed to already, and then has to leave as all do.
forget_fresh() {
  [[ -n $FRESH ]] || return 0
  docker stop "$FRESH" >/dev/null 2>&1 || true
  docker rm -f "$FRESH" >/dev/null 2>&1 || true
}

main "$@"
